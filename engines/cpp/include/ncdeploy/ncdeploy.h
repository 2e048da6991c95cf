/* ncdeploy from C, and from whatever can call C. Library: ncdeploy_c.
 *
 *     ncdeploy_sampler *sampler;
 *     float samples[3 * 64];
 *     uint64_t seeds[3] = {0, 1, 2};
 *     if (ncdeploy_open("bundle/", NULL, &sampler) != NCDEPLOY_OK ||
 *         ncdeploy_sample(sampler, seeds, NULL, 3, samples, 3 * 64, NULL) != NCDEPLOY_OK) {
 *         puts(ncdeploy_last_error());
 *     }
 *     ncdeploy_close(sampler);
 *
 * A sampler belongs to one thread at a time; different ones are independent.
 */
#ifndef NCDEPLOY_H
#define NCDEPLOY_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define NCDEPLOY_API
#else
#define NCDEPLOY_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef enum {
    NCDEPLOY_OK = 0,
    NCDEPLOY_INPUT_ERROR = 1,     /* a value the caller gave is wrong */
    NCDEPLOY_FILE_ERROR = 2,      /* a file is missing, damaged, foreign or unsafe */
    NCDEPLOY_BACKEND_ERROR = 3,   /* a runtime refused a graph, a device or an input */
    NCDEPLOY_NUMERICAL_ERROR = 4, /* the network returned NaN or infinity */
    NCDEPLOY_INTERNAL_ERROR = 5   /* anything else, out of memory for one */
} ncdeploy_status;

/* An opened bundle with its engine and a plan. */
typedef struct ncdeploy_sampler ncdeploy_sampler;

/* Start from ncdeploy_default_options(); fields may be added at the end in later versions. */
typedef struct {
    size_t size;         /* sizeof(ncdeploy_options), set by ncdeploy_default_options() */
    const char *plan;    /* name in the bundle; NULL: its first */
    const char *device;  /* "cpu", "cuda" or "cuda:N"; NULL: "cpu" for model.onnx, "cuda" for model.plan */
    int threads;         /* of the CPU; 0: all */
    int64_t window;      /* nodes per sample and sweep; 0: sequential; -1: the bundle's */
    double tolerance;    /* of parallel sampling; -1: the bundle's */
    size_t max_rows;     /* most rows of one network call; 0: no limit */
    double guidance;     /* weight of classifier-free guidance; NaN: none */
} ncdeploy_options;

/* Of one run. */
typedef struct {
    size_t depth;            /* network calls made one after another */
    double nfe;              /* rows the network evaluated per sample, on average */
    double residual;         /* largest that was accepted, relative to sigma */
    double wall_s, engine_s; /* seconds of the run, and those inside the network */
} ncdeploy_report;

/* "major.minor.patch" */
NCDEPLOY_API const char *ncdeploy_version(void);

/* What went wrong in this thread's last call, in one line; "" if nothing did. Valid until its next call. */
NCDEPLOY_API const char *ncdeploy_last_error(void);

NCDEPLOY_API ncdeploy_options ncdeploy_default_options(void);

/* Opens a bundle. options: NULL for the defaults. *out is NULL after an error. */
NCDEPLOY_API ncdeploy_status ncdeploy_open(const char *bundle, const ncdeploy_options *options, ncdeploy_sampler **out);

/* Sizes of one sample, without the batch axis: writes at most `capacity` of them and returns how many there are. */
NCDEPLOY_API size_t ncdeploy_shape(const ncdeploy_sampler *sampler, int64_t *sizes, size_t capacity);

/* One sample per seed, float32 [n, *shape] in model units.
 * labels: one per seed for a model with classes, else NULL. samples: room for `values` = n * prod(shape) numbers.
 * report: NULL, or where to put figures of the run. */
NCDEPLOY_API ncdeploy_status ncdeploy_sample(ncdeploy_sampler *sampler, const uint64_t *seeds, const int64_t *labels,
                                             size_t n, float *samples, size_t values, ncdeploy_report *report);

/* Frees a sampler; NULL is allowed. */
NCDEPLOY_API void ncdeploy_close(ncdeploy_sampler *sampler);

#ifdef __cplusplus
}
#endif
#endif
