/* A program of somebody else, in C: hello BUNDLE LIBRARY prints the library's version and the values of one sample. */
#include <ncdeploy/ncdeploy.h>

#include <stdio.h>

int main(int argc, char **argv) {
    ncdeploy_sampler *sampler = NULL;
    ncdeploy_options options;
    uint64_t seed = 7;
    ncdeploy_request request = {sizeof request, 1, &seed};
    float sample[5];
    if (argc != 3 || ncdeploy_default_options(&options, sizeof options) != NCDEPLOY_OK) {
        return 2;
    }
    options.library = argv[2];
    if (ncdeploy_open(argv[1], &options, &sampler) != NCDEPLOY_OK ||
        ncdeploy_sample(sampler, &request, sample, 5, NULL) != NCDEPLOY_OK) {
        puts(ncdeploy_last_error());
        return 1;
    }
    printf("%s %g %g %g %g %g\n", ncdeploy_version(), sample[0], sample[1], sample[2], sample[3], sample[4]);
    ncdeploy_close(sampler);
    return 0;
}
