/* ncdeploy from C, and from whatever can call C. Library: ncdeploy_c (pkg-config: ncdeploy).
 *
 *     ncdeploy_sampler *sampler = NULL;
 *     uint64_t seeds[3] = {0, 1, 2};
 *     ncdeploy_request request = {sizeof request, 3, seeds};
 *     float samples[3 * 64];
 *     if (ncdeploy_open("bundle/", NULL, &sampler) != NCDEPLOY_OK ||
 *         ncdeploy_sample(sampler, &request, samples, 3 * 64, NULL) != NCDEPLOY_OK) {
 *         puts(ncdeploy_last_error());
 *     }
 *     ncdeploy_close(sampler);
 *
 * A sampler belongs to one thread at a time; different ones are independent.
 *
 * A program runs with the library it was compiled for and with every later one of the same SOVERSION (the 0 of
 * libncdeploy_c.so.0): no function of it goes or changes, and structs that begin with their size grow at the end alone.
 * The library reads and writes no further than the size that the program says. It takes a larger struct, of a program
 * newer than itself, if what it does not know is zero.
 */
#ifndef NCDEPLOY_H
#define NCDEPLOY_H

#include <stddef.h>
#include <stdint.h>

#if !defined(_WIN32)
#define NCDEPLOY_API __attribute__((visibility("default")))
#elif defined(NCDEPLOY_BUILDING)
#define NCDEPLOY_API __declspec(dllexport)
#else
#define NCDEPLOY_API __declspec(dllimport)
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef int ncdeploy_status;
enum {
    NCDEPLOY_OK = 0,
    NCDEPLOY_INPUT_ERROR = 1,     /* a value the caller gave is wrong */
    NCDEPLOY_FILE_ERROR = 2,      /* a file is missing, damaged, foreign or unsafe */
    NCDEPLOY_BACKEND_ERROR = 3,   /* a runtime is missing, or refused a graph, a device or an input */
    NCDEPLOY_NUMERICAL_ERROR = 4, /* the network returned NaN or infinity */
    NCDEPLOY_INTERNAL_ERROR = 5,  /* anything else, out of memory for one */
    NCDEPLOY_CANCELLED = 6        /* on_sweep said so */
};

/* An opened bundle with its engine and a plan. */
typedef struct ncdeploy_sampler ncdeploy_sampler;

/* Start from ncdeploy_default_options(). */
typedef struct ncdeploy_options {
    size_t size;        /* sizeof(ncdeploy_options), set by ncdeploy_default_options() */
    const char *plan;   /* name in the bundle; NULL: its first */
    const char *device; /* "cpu", "cuda" or "cuda:N"; NULL: "cpu" for model.onnx, "cuda" for model.plan */
    int64_t window;     /* nodes per sample and sweep; 0: sequential; -1: the bundle's */
    double tolerance;   /* of parallel sampling; -1: the bundle's */
    size_t max_rows;    /* most rows of one network call; 0: no limit */
    double guidance;    /* weight of classifier-free guidance; NaN: none */

    /* Of ONNX Runtime, as in EngineOptions of ncdeploy.hpp. */
    const char *library;                 /* its file; NULL: where the system's loader looks */
    const char *provider;                /* an execution provider by name, in place of device; NULL: none */
    const char *const *provider_options; /* [2 * provider_option_count]: key, value, key, value, ... */
    size_t provider_option_count;        /* pairs of them */
    int threads;                         /* of the CPU; 0: all */
    int spinning;                        /* 1: threads wait busily, which is faster; 0: they sleep, which saves power */
    int arena;                           /* 1: memory is kept from call to call; 0: given back */
    int shared_threads;                  /* 1: one pool for all engines of the process that say so */

    int acceptance;  /* NCDEPLOY_PATHWISE or NCDEPLOY_LAW */
    double theta;    /* in law: most probable rejection that a node is still tested at; speed alone depends on it */
    double deadline; /* seconds after which a run should have ended, with what it knows then; 0: none */
} ncdeploy_options;

/* When a node of a parallel run is final: when it stands still, which gives the samples of a sequential run to the
 * tolerance; or by a test that keeps the distribution exact, in fewer calls, for plans that add noise. */
enum { NCDEPLOY_PATHWISE = 0, NCDEPLOY_LAW = 1 };

enum { NCDEPLOY_FLOAT32 = 1, NCDEPLOY_INT64 = 2 };

/* What every sample is conditioned on, under the name that the model's record gives it; "labels" are classes. With an
 * encoder in the bundle, what that takes may stand for what it makes. */
typedef struct ncdeploy_condition {
    const char *name;   /* of the condition */
    int dtype;          /* NCDEPLOY_FLOAT32 or NCDEPLOY_INT64 */
    const void *values; /* [n, *shape of the condition] */
    size_t count;       /* numbers that `values` has */
} ncdeploy_condition;

/* After a network call. Later versions may have more behind it. */
typedef struct ncdeploy_sweep {
    size_t size;                   /* sizeof(ncdeploy_sweep) of the library */
    size_t calls;                  /* so far */
    size_t rows;                   /* nodes evaluated in this call */
    size_t nodes;                  /* of the plan */
    size_t n;                      /* samples */
    const size_t *accepted;        /* [n], nodes of each sample that are final */
    const float *const *estimates; /* [n], for a preview: what each sample would be if the run ended here, valid until
                                    * the callback returns; NULL for one that is not begun */
} ncdeploy_sweep;

/* What to sample. Write {sizeof request, n, seeds}: the rest is zero, which leaves it out. */
typedef struct ncdeploy_request {
    size_t size;                                                 /* sizeof(ncdeploy_request) */
    size_t n;                                                    /* samples */
    const uint64_t *seeds;                                       /* [n] */
    const ncdeploy_condition *conditions;                        /* all that the model takes */
    size_t condition_count;                                      /* how many they are */
    int (*on_sweep)(const ncdeploy_sweep *sweep, void *context); /* anything but 0 ends the run: NCDEPLOY_CANCELLED */
    void *context;                                               /* given to on_sweep */
} ncdeploy_request;

/* Of one run. Set `size` before the call. */
typedef struct ncdeploy_report {
    size_t size;           /* sizeof(ncdeploy_report) */
    size_t depth;          /* network calls made one after another */
    double nfe;            /* rows the network evaluated per sample, on average */
    double residual;       /* largest that was accepted, relative to sigma */
    double wall_s;         /* seconds of the run */
    double engine_s;       /* those inside the network */
    double rejections;     /* in law: drafts that were rejected, per sample; and the summed probabilities of that, */
    double rejection_odds; /* which they equal in the mean */
    size_t complete;       /* samples that came to their end by the deadline */
} ncdeploy_report;

/* "major.minor.patch" */
NCDEPLOY_API const char *ncdeploy_version(void);

/* What went wrong in this thread's last call, in one line; "" if nothing did. Valid until its next call. */
NCDEPLOY_API const char *ncdeploy_last_error(void);

/* Fills in the first `size` bytes: ncdeploy_default_options(&options, sizeof options). */
NCDEPLOY_API ncdeploy_status ncdeploy_default_options(ncdeploy_options *options, size_t size);

/* Opens a bundle. options: NULL for the defaults. *out is NULL after an error. */
NCDEPLOY_API ncdeploy_status ncdeploy_open(const char *bundle, const ncdeploy_options *options, ncdeploy_sampler **out);

/* A file of a bundle in memory. */
typedef struct ncdeploy_file {
    const char *name;  /* in the bundle: "manifest.json", "plans/ddim-100.ncplan" */
    const void *bytes; /* all of it */
    size_t size;       /* how many they are */
} ncdeploy_file;

/* The same of files that are in memory, all that the bundle has, and stay there until ncdeploy_close(). */
NCDEPLOY_API ncdeploy_status ncdeploy_open_memory(const ncdeploy_file *files, size_t count,
                                                  const ncdeploy_options *options, ncdeploy_sampler **out);

/* Sizes of one sample, without the batch axis: writes at most `capacity` of them and returns how many there are. */
NCDEPLOY_API size_t ncdeploy_shape(const ncdeploy_sampler *sampler, int64_t *sizes, size_t capacity);

/* One sample per seed, float32 [n, *shape] in model units.
 * samples: room for `values` = n * prod(shape) numbers. report: NULL, or where to put figures of the run. */
NCDEPLOY_API ncdeploy_status ncdeploy_sample(ncdeploy_sampler *sampler, const ncdeploy_request *request, float *samples,
                                             size_t values, ncdeploy_report *report);

/* What the bundle's decoder makes of one sample, as ncdeploy_shape; 0 for a bundle without one. */
NCDEPLOY_API size_t ncdeploy_decoded_shape(const ncdeploy_sampler *sampler, int64_t *sizes, size_t capacity);

/* What the decoder makes of n samples, [n, *decoded shape]; of whole numbers, as float.
 * decoded: room for `values` = n * prod(decoded shape) numbers. */
NCDEPLOY_API ncdeploy_status ncdeploy_decode(ncdeploy_sampler *sampler, const float *samples, size_t n, float *decoded,
                                             size_t values);

/* Frees a sampler; NULL is allowed. */
NCDEPLOY_API void ncdeploy_close(ncdeploy_sampler *sampler);

#ifdef __cplusplus
}
#endif
#endif
