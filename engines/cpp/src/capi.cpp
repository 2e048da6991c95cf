// The C interface: exceptions become codes and a message.
#include "ncdeploy/ncdeploy.h"

#include <algorithm>
#include <cmath>

#include "ncdeploy/ncdeploy.hpp"
#include "text.hpp"

struct ncdeploy_sampler {
    ncdeploy::Bundle bundle;
    std::unique_ptr<ncdeploy::Engine> engine;
    ncdeploy::Sampler sampler;
};

namespace {

using ncdeploy::detail::text;

thread_local std::string last_error;

template <class Body> ncdeploy_status guarded(Body body) {
    const auto failed = [](ncdeploy_status code, const char *what) {
        last_error = what;
        return code;
    };
    try {
        last_error.clear();
        body();
        return NCDEPLOY_OK;
    } catch (const ncdeploy::InputError &e) {
        return failed(NCDEPLOY_INPUT_ERROR, e.what());
    } catch (const ncdeploy::FileError &e) {
        return failed(NCDEPLOY_FILE_ERROR, e.what());
    } catch (const ncdeploy::BackendError &e) {
        return failed(NCDEPLOY_BACKEND_ERROR, e.what());
    } catch (const ncdeploy::NumericalError &e) {
        return failed(NCDEPLOY_NUMERICAL_ERROR, e.what());
    } catch (const std::exception &e) {
        return failed(NCDEPLOY_INTERNAL_ERROR, e.what());
    }
}

std::unique_ptr<ncdeploy::Engine> open_engine(const ncdeploy::Bundle &bundle,
                                              [[maybe_unused]] const ncdeploy::EngineOptions &options) {
    const std::string path = bundle.engine();
    [[maybe_unused]] const bool onnx = path.size() > 5 && path.compare(path.size() - 5, 5, ".onnx") == 0;
#ifdef NCDEPLOY_HAS_ONNXRUNTIME
    if (onnx) {
        return ncdeploy::open_onnxruntime(bundle, options);
    }
#endif
#ifdef NCDEPLOY_HAS_TENSORRT
    if (!onnx) {
        return ncdeploy::open_tensorrt(bundle, options);
    }
#endif
    throw ncdeploy::BackendError(path + ": this library was built without a backend that runs it; build it with both");
}

} // namespace

const char *ncdeploy_version(void) { return ncdeploy::version(); }

const char *ncdeploy_last_error(void) { return last_error.c_str(); }

ncdeploy_options ncdeploy_default_options(void) {
    return {sizeof(ncdeploy_options), nullptr, nullptr, 0, -1, -1, 0, std::nan("")};
}

ncdeploy_status ncdeploy_open(const char *bundle, const ncdeploy_options *options, ncdeploy_sampler **out) {
    return guarded([&] {
        if (!bundle || !out) {
            throw ncdeploy::InputError("ncdeploy_open: got NULL, expected a path and where to put the sampler");
        }
        *out = nullptr;
        const ncdeploy_options given = options ? *options : ncdeploy_default_options();
        if (given.size != sizeof(ncdeploy_options)) {
            throw ncdeploy::InputError(text("options: size is ", given.size, ", expected ", sizeof(ncdeploy_options),
                                            "; start from ncdeploy_default_options() of this version"));
        }
        if (given.window < -1) {
            throw ncdeploy::InputError(text("window: got ", given.window, ", expected -1 or more"));
        }
        const std::string plan = given.plan ? given.plan : "";
        ncdeploy::Bundle opened(bundle);
        ncdeploy::Options chosen = opened.options(plan);
        chosen.window = given.window < 0 ? chosen.window : static_cast<std::size_t>(given.window);
        chosen.tolerance = given.tolerance == -1 ? chosen.tolerance : given.tolerance;
        chosen.max_rows = given.max_rows;
        if (!std::isnan(given.guidance)) {
            chosen.guidance = given.guidance;
        }
        std::unique_ptr<ncdeploy::Engine> engine =
            open_engine(opened, {given.device ? given.device : "", given.threads});
        ncdeploy::Sampler sampler(*engine, opened.plan(plan), chosen);
        *out = new ncdeploy_sampler{std::move(opened), std::move(engine), std::move(sampler)};
    });
}

size_t ncdeploy_shape(const ncdeploy_sampler *sampler, int64_t *sizes, size_t capacity) {
    if (!sampler) {
        return 0;
    }
    const std::vector<std::int64_t> &shape = sampler->engine->info().shape;
    std::copy_n(shape.begin(), sizes ? std::min(capacity, shape.size()) : 0, sizes);
    return shape.size();
}

ncdeploy_status ncdeploy_sample(ncdeploy_sampler *sampler, const uint64_t *seeds, const int64_t *labels, size_t n,
                                float *samples, size_t values, ncdeploy_report *report) {
    return guarded([&] {
        if (!sampler || !seeds || !samples) {
            throw ncdeploy::InputError("ncdeploy_sample: got NULL, expected a sampler, seeds and room for samples");
        }
        const std::size_t dim = sampler->engine->info().dim();
        if (values % dim || values / dim != n) {
            throw ncdeploy::InputError(text("samples: got room for ", values, " values, expected ", n, " * ", dim));
        }
        const std::vector<std::int64_t> classes(labels, labels ? labels + n : labels);
        const ncdeploy::Result result = sampler->sampler.sample({seeds, seeds + n}, classes);
        std::copy(result.samples.begin(), result.samples.end(), samples);
        if (report) {
            const double residual = *std::max_element(result.residual.begin(), result.residual.end());
            *report = {result.depth, result.nfe, residual, result.wall_s, result.engine_s};
        }
    });
}

void ncdeploy_close(ncdeploy_sampler *sampler) { delete sampler; }
