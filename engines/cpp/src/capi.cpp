// The C interface: exceptions become codes and a message, and structs are read and written as far as the caller's go.
#include "ncdeploy/ncdeploy.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "ncdeploy/ncdeploy.hpp"
#include "sidecar.hpp"
#include "text.hpp"

struct ncdeploy_sampler {
    std::unique_ptr<ncdeploy::Engine> engine;
    std::unique_ptr<ncdeploy::Part> encoder, decoder; // where the bundle has them
    std::optional<ncdeploy::Sampler> sampler;
    const ncdeploy_request *request = nullptr; // of the run that goes on
};

namespace {

using ncdeploy::detail::text;

thread_local std::string last_error;

struct Cancelled {};

template <class Body> ncdeploy_status guarded(Body body) noexcept {
    const auto failed = [](ncdeploy_status code, const char *what) {
        try {
            last_error = what;
        } catch (...) {
            last_error.clear(); // no room for the words; the code says what kind it is
        }
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
    } catch (const Cancelled &) {
        return failed(NCDEPLOY_CANCELLED, "on_sweep ended the run");
    } catch (const std::exception &e) {
        return failed(NCDEPLOY_INTERNAL_ERROR, e.what());
    } catch (...) {
        return failed(NCDEPLOY_INTERNAL_ERROR, "an exception of an unknown kind");
    }
}

// The caller's struct, which begins with its size, as this version has it: what an older one lacks stays as in `known`.
// Throws InputError for no size, and for a larger struct that uses what is not known here.
template <class Struct> Struct versioned(const char *what, const Struct *given, Struct known) {
    std::size_t size = 0;
    std::memcpy(&size, given, sizeof size);
    const auto *bytes = reinterpret_cast<const unsigned char *>(given);
    if (size < sizeof size || size > 1 << 16 ||
        (size > sizeof known && std::any_of(bytes + sizeof known, bytes + size, [](unsigned char b) { return b; }))) {
        throw ncdeploy::InputError(text(what, ": got size ", size, ", expected sizeof(ncdeploy_", what, "), here ",
                                        sizeof known, "; set it, or update the library"));
    }
    std::memcpy(&known, given, std::min(size, sizeof known));
    return known;
}

ncdeploy_options defaults() {
    ncdeploy_options options{};
    options.size = sizeof options;
    options.window = -1;
    options.tolerance = -1;
    options.guidance = std::nan("");
    options.spinning = options.arena = 1;
    options.theta = ncdeploy::Options().theta;
    return options;
}

std::string text_or_empty(const char *given) { return given ? given : ""; }

ncdeploy::EngineOptions engine_options(const ncdeploy_options &given) {
    ncdeploy::EngineOptions options;
    options.device = text_or_empty(given.device);
    options.library = text_or_empty(given.library);
    options.provider = text_or_empty(given.provider);
    if (given.provider_option_count && !given.provider_options) {
        throw ncdeploy::InputError("provider_options: got NULL, expected keys and values");
    }
    for (std::size_t i = 0; i < given.provider_option_count; ++i) {
        options.provider_options.emplace_back(text_or_empty(given.provider_options[2 * i]),
                                              text_or_empty(given.provider_options[2 * i + 1]));
    }
    options.threads = given.threads;
    options.spinning = given.spinning != 0;
    options.arena = given.arena != 0;
    options.shared_threads = given.shared_threads != 0;
    return options;
}

// Throws Cancelled when the caller says so.
void tell(const ncdeploy_request &request, const ncdeploy::Sweep &sweep) {
    const ncdeploy_sweep shown{sizeof shown,          sweep.calls,           sweep.rows,
                               sweep.nodes,           sweep.accepted.size(), sweep.accepted.data(),
                               sweep.estimates.data()};
    if (request.on_sweep && request.on_sweep(&shown, request.context)) {
        throw Cancelled();
    }
}

ncdeploy::Conditions conditions_of(const ncdeploy_request &request) {
    ncdeploy::Conditions conditions;
    if (request.condition_count && !request.conditions) {
        throw ncdeploy::InputError("conditions: got NULL, expected an array of them");
    }
    for (std::size_t i = 0; i < request.condition_count; ++i) {
        const ncdeploy_condition &given = request.conditions[i];
        const std::string name = text_or_empty(given.name);
        const bool floats = given.dtype == NCDEPLOY_FLOAT32;
        if ((!floats && given.dtype != NCDEPLOY_INT64) || (given.count && !given.values)) {
            throw ncdeploy::InputError(text("condition '", name,
                                            "': expected values, and a dtype of NCDEPLOY_FLOAT32 "
                                            "or NCDEPLOY_INT64"));
        }
        const auto copy = [&](const auto *values) {
            return ncdeploy::Values(std::vector(values, values + given.count));
        };
        if (!conditions
                 .emplace(name, floats ? copy(static_cast<const float *>(given.values))
                                       : copy(static_cast<const std::int64_t *>(given.values)))
                 .second) {
            throw ncdeploy::InputError("condition '" + name + "': is there twice");
        }
    }
    return conditions;
}

// What the encoder takes goes through it, the rest stays.
ncdeploy::Conditions encoded(ncdeploy::Part *encoder, ncdeploy::Conditions given) {
    ncdeploy::Conditions raw;
    for (const ncdeploy::Condition &value : encoder ? encoder->info().inputs : std::vector<ncdeploy::Condition>()) {
        if (auto held = given.extract(value.name)) {
            raw.insert(std::move(held));
        }
    }
    for (const auto &[name, values] : raw.empty() ? raw : encoder->run(raw)) {
        if (!given.emplace(name, values).second) {
            throw ncdeploy::InputError(name + ": is what the encoder makes of others; give one or the other");
        }
    }
    return given;
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
#if defined(NCDEPLOY_HAS_TENSORRT) || defined(NCDEPLOY_HAS_TENSORRT_RTX)
    if (!onnx) {
        const std::string record = "model.plan.json";
        [[maybe_unused]] const bool rtx =
            ncdeploy::detail::Sidecar::parse(bundle.read(record), bundle.file(record)).rtx;
#ifdef NCDEPLOY_HAS_TENSORRT
        if (!rtx) {
            return ncdeploy::open_tensorrt(bundle, options);
        }
#endif
#ifdef NCDEPLOY_HAS_TENSORRT_RTX
        if (rtx) {
            return ncdeploy::open_tensorrt_rtx(bundle, options);
        }
#endif
    }
#endif
    throw ncdeploy::BackendError(path +
                                 ": this library was built without a backend that runs it; build it with that one");
}

// opened: of the bundle; options: NULL for the defaults.
ncdeploy_sampler *open_sampler(const ncdeploy::Bundle &opened, const ncdeploy_options *options) {
    const ncdeploy_options given = options ? versioned("options", options, defaults()) : defaults();
    if (given.window < -1) {
        throw ncdeploy::InputError(text("window: got ", given.window, ", expected -1 or more"));
    }
    const std::string plan = text_or_empty(given.plan);
    ncdeploy::Options chosen = opened.options(plan);
    chosen.window = given.window < 0 ? chosen.window : static_cast<std::size_t>(given.window);
    chosen.tolerance = given.tolerance == -1 ? chosen.tolerance : given.tolerance;
    chosen.max_rows = given.max_rows;
    if (!std::isnan(given.guidance)) {
        chosen.guidance = given.guidance;
    }
    if (given.acceptance != NCDEPLOY_PATHWISE && given.acceptance != NCDEPLOY_LAW) {
        throw ncdeploy::InputError(
            text("acceptance: got ", given.acceptance, ", expected NCDEPLOY_PATHWISE or NCDEPLOY_LAW"));
    }
    chosen.acceptance = given.acceptance == NCDEPLOY_LAW ? ncdeploy::Acceptance::law : ncdeploy::Acceptance::pathwise;
    chosen.theta = given.theta;
    chosen.deadline = given.deadline;
    std::unique_ptr<ncdeploy::Engine> engine = open_engine(opened, engine_options(given));
    auto sampler = std::make_unique<ncdeploy_sampler>();
    chosen.on_sweep = [of = sampler.get()](const ncdeploy::Sweep &sweep) { tell(*of->request, sweep); };
    sampler->sampler.emplace(*engine, opened.plan(plan), chosen);
    sampler->engine = std::move(engine);
#ifdef NCDEPLOY_HAS_ONNXRUNTIME
    sampler->encoder = opened.encoder() ? ncdeploy::open_encoder(opened, engine_options(given)) : nullptr;
    sampler->decoder = opened.decoder() ? ncdeploy::open_decoder(opened, engine_options(given)) : nullptr;
#endif
    return sampler.release();
}

size_t copy_sizes(const std::vector<std::int64_t> &shape, int64_t *sizes, size_t capacity) {
    std::copy_n(shape.begin(), sizes ? std::min(capacity, shape.size()) : 0, sizes);
    return shape.size();
}

} // namespace

const char *ncdeploy_version(void) { return ncdeploy::version(); }

const char *ncdeploy_last_error(void) { return last_error.c_str(); }

ncdeploy_status ncdeploy_default_options(ncdeploy_options *options, size_t size) {
    return guarded([&] {
        if (!options || size < sizeof size) {
            throw ncdeploy::InputError("ncdeploy_default_options: expected options and their sizeof");
        }
        ncdeploy_options known = defaults();
        known.size = size;
        std::memset(options, 0, size);
        std::memcpy(options, &known, std::min(size, sizeof known));
    });
}

ncdeploy_status ncdeploy_open(const char *bundle, const ncdeploy_options *options, ncdeploy_sampler **out) {
    return guarded([&] {
        if (!bundle || !out) {
            throw ncdeploy::InputError("ncdeploy_open: got NULL, expected a path and where to put the sampler");
        }
        *out = nullptr;
        *out = open_sampler(ncdeploy::Bundle(bundle), options);
    });
}

ncdeploy_status ncdeploy_open_memory(const ncdeploy_file *files, size_t count, const ncdeploy_options *options,
                                     ncdeploy_sampler **out) {
    return guarded([&] {
        if (!files || !out) {
            throw ncdeploy::InputError("ncdeploy_open_memory: got NULL, expected files and where to put the sampler");
        }
        *out = nullptr;
        ncdeploy::Files all;
        for (std::size_t i = 0; i < count; ++i) {
            if (!files[i].name || !files[i].bytes) {
                throw ncdeploy::InputError(text("file ", i, ": got NULL, expected its name and its bytes"));
            }
            all.emplace(files[i].name, std::string_view(static_cast<const char *>(files[i].bytes), files[i].size));
        }
        *out = open_sampler(ncdeploy::Bundle(all), options);
    });
}

size_t ncdeploy_shape(const ncdeploy_sampler *sampler, int64_t *sizes, size_t capacity) {
    return sampler ? copy_sizes(sampler->engine->info().shape, sizes, capacity) : 0;
}

size_t ncdeploy_decoded_shape(const ncdeploy_sampler *sampler, int64_t *sizes, size_t capacity) {
    return sampler && sampler->decoder ? copy_sizes(sampler->decoder->info().outputs.at(0).shape, sizes, capacity) : 0;
}

ncdeploy_status ncdeploy_sample(ncdeploy_sampler *sampler, const ncdeploy_request *request, float *samples,
                                size_t values, ncdeploy_report *report) {
    return guarded([&] {
        if (!sampler || !request || !samples) {
            throw ncdeploy::InputError("ncdeploy_sample: got NULL, expected a sampler, a request and room for samples");
        }
        const ncdeploy_request given = versioned("request", request, ncdeploy_request{});
        const std::size_t room = report ? report->size : 0;
        if (report && room < sizeof room) {
            throw ncdeploy::InputError(text("report: got size ", room, ", expected sizeof(ncdeploy_report); set it"));
        }
        if (given.n && !given.seeds) {
            throw ncdeploy::InputError("seeds: got NULL, expected one per sample");
        }
        const std::size_t dim = sampler->engine->info().dim();
        if (values % dim || values / dim != given.n) {
            throw ncdeploy::InputError(
                text("samples: got room for ", values, " values, expected ", given.n, " * ", dim));
        }
        sampler->request = &given;
        const ncdeploy::Result result = sampler->sampler->sample({given.seeds, given.seeds + given.n},
                                                                 encoded(sampler->encoder.get(), conditions_of(given)));
        std::copy(result.samples.begin(), result.samples.end(), samples);
        if (report) {
            const double residual = *std::max_element(result.residual.begin(), result.residual.end());
            const auto mean = [&](const auto &list) {
                return std::accumulate(list.begin(), list.end(), 0.0) / static_cast<double>(list.size());
            };
            const ncdeploy_report figures{
                room,
                result.depth,
                result.nfe,
                residual,
                result.wall_s,
                result.engine_s,
                mean(result.rejections),
                mean(result.rejection_odds),
                static_cast<std::size_t>(std::count(result.complete.begin(), result.complete.end(), 1))};
            std::memset(report, 0, room);
            std::memcpy(report, &figures, std::min(room, sizeof figures));
        }
    });
}

ncdeploy_status ncdeploy_decode(ncdeploy_sampler *sampler, const float *samples, size_t n, float *decoded,
                                size_t values) {
    return guarded([&] {
        if (!sampler || !samples || !decoded) {
            throw ncdeploy::InputError("ncdeploy_decode: got NULL, expected a sampler, samples and room for values");
        }
        if (!sampler->decoder) {
            throw ncdeploy::InputError("ncdeploy_decode: the bundle has no decoder; samples are in model units");
        }
        const ncdeploy::Condition &output = sampler->decoder->info().outputs.at(0);
        if (n == 0 || values % output.dim() || values / output.dim() != n) {
            throw ncdeploy::InputError(
                text(output.name, ": got room for ", values, " values, expected ", n, " * ", output.dim()));
        }
        const ncdeploy::Values x = std::vector(samples, samples + n * sampler->engine->info().dim());
        const ncdeploy::Conditions made = sampler->decoder->run({{"x", x}});
        std::visit(
            [&](const auto &list) {
                std::transform(list.begin(), list.end(), decoded, [](auto v) { return static_cast<float>(v); });
            },
            made.at(output.name));
    });
}

void ncdeploy_close(ncdeploy_sampler *sampler) { delete sampler; }
