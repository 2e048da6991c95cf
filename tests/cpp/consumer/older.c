/* What a program does that was compiled when the structs were shorter: older BUNDLE LIBRARY. Each of them ends where the
 * memory ends, so that one byte read or written too many ends the program. */
#include <ncdeploy/ncdeploy.h>

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void *at_the_end(size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    char *pages = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return pages == MAP_FAILED || mprotect(pages + page, page, PROT_NONE) ? NULL : pages + page - size;
}

#define UP_TO(type, field) (offsetof(type, field) + sizeof(((type *)0)->field))

int main(int argc, char **argv) {
    ncdeploy_sampler *sampler = NULL;
    ncdeploy_options *options = at_the_end(UP_TO(ncdeploy_options, library));
    ncdeploy_request *request = at_the_end(UP_TO(ncdeploy_request, seeds));
    ncdeploy_report *report = at_the_end(UP_TO(ncdeploy_report, depth));
    uint64_t seed = 7;
    float sample[5];
    if (argc != 3 || !options || !request || !report ||
        ncdeploy_default_options(options, UP_TO(ncdeploy_options, library)) != NCDEPLOY_OK) {
        return 2;
    }
    options->library = argv[2];
    request->size = UP_TO(ncdeploy_request, seeds);
    request->n = 1;
    request->seeds = &seed;
    report->size = UP_TO(ncdeploy_report, depth);
    if (ncdeploy_open(argv[1], options, &sampler) != NCDEPLOY_OK ||
        ncdeploy_sample(sampler, request, sample, 5, report) != NCDEPLOY_OK) {
        puts(ncdeploy_last_error());
        return 1;
    }
    printf("%zu calls, %g\n", report->depth, sample[0]);
    ncdeploy_close(sampler);
    return 0;
}
