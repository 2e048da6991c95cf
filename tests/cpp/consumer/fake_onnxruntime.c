/* A library that says of itself what an ONNX Runtime before 1.21 would: it has no functions of that interface. */
#include <stddef.h>
#include <stdint.h>

static const void *get_api(uint32_t version) {
    (void)version;
    return NULL;
}
static const char *get_version(void) { return "1.20.1"; }

static const struct {
    const void *(*get_api)(uint32_t);
    const char *(*get_version)(void);
} base = {get_api, get_version};

const void *OrtGetApiBase(void) { return &base; }
