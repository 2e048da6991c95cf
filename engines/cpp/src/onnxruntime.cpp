// What a bundle holds on ONNX Runtime: its engine model.onnx, its encoder and its decoder.
#include "onnxruntime_graph.hpp"

#include "conditions.hpp"
#include "text.hpp"

namespace ncdeploy {
namespace {

using detail::Port;
using detail::text;
using detail::View;

void check_options(const EngineOptions &options) {
    if (options.threads < 0) {
        throw InputError(text("threads: got ", options.threads, ", expected 0 or more"));
    }
}

class OnnxRuntime final : public Engine {
  public:
    OnnxRuntime(const detail::GraphFile &file, const ModelInfo &info, const EngineOptions &options)
        : info_(info),
          graph_(file, inputs(info), {{"denoised", DType::float32, info.shape}}, options, info.precision == "tf32") {}

    const ModelInfo &info() const override { return info_; }

    std::string name() const override { return graph_.name(); }

    void denoise(const Batch &batch) override {
        views_ = {{batch.rows, batch.x}, {batch.rows, batch.sigma}};
        for (std::size_t i = 0; i < info_.conditions.size(); ++i) {
            views_.push_back({batch.samples, batch.conditions[i].values});
        }
        if (!info_.conditions.empty()) {
            views_.push_back({batch.rows, batch.sample});
        }
        if (info_.num_classes) {
            views_.push_back({batch.rows, batch.labels});
        }
        if (info_.guidance) {
            views_.push_back({batch.rows, batch.guidance});
        }
        graph_.run(views_, {{batch.rows, batch.denoised}});
    }

  private:
    // In the order of the views.
    static std::vector<Port> inputs(const ModelInfo &info) {
        std::vector<Port> ports{{"x", DType::float32, info.shape}, {"sigma", DType::float32, {}}};
        for (const Condition &condition : info.conditions) {
            ports.push_back({condition.name, condition.dtype, condition.shape});
        }
        if (!info.conditions.empty()) {
            ports.push_back({"sample", DType::int64, {}});
        }
        if (info.num_classes) {
            ports.push_back({"labels", DType::int64, {}});
        }
        if (info.guidance) {
            ports.push_back({"guidance", DType::float32, {}});
        }
        return ports;
    }

    ModelInfo info_;
    detail::OnnxGraph graph_;
    std::vector<View> views_;
};

class OnnxPart final : public Part {
  public:
    OnnxPart(const detail::GraphFile &file, const PartInfo &info, const EngineOptions &options, bool tf32)
        : info_(info), graph_(file, ports(info.inputs), ports(info.outputs), options, tf32) {}

    const PartInfo &info() const override { return info_; }

    Conditions run(const Conditions &values) override {
        const std::size_t n = detail::check_values(info_.inputs, values);
        Conditions made;
        std::vector<View> in, out;
        for (const Condition &value : info_.inputs) {
            in.push_back({n, detail::data(values.at(value.name))});
        }
        for (const Condition &value : info_.outputs) {
            Values &room = made[value.name];
            if (value.dtype == DType::float32) {
                room = std::vector<float>(n * value.dim());
            } else {
                room = std::vector<std::int64_t>(n * value.dim());
            }
            out.push_back({n, detail::data(room)});
        }
        graph_.run(in, out);
        return made;
    }

  private:
    static std::vector<Port> ports(const std::vector<Condition> &values) {
        std::vector<Port> all;
        for (const Condition &value : values) {
            all.push_back({value.name, value.dtype, value.shape});
        }
        return all;
    }

    PartInfo info_;
    detail::OnnxGraph graph_;
};

std::unique_ptr<Part> open_part(const Bundle &bundle, const std::optional<PartInfo> &part, const char *role,
                                const EngineOptions &options) {
    if (!part) {
        throw InputError(text(bundle.engine(), ": its bundle has no ", role, "; give one to ncdeploy bundle --", role));
    }
    check_options(options);
    return std::make_unique<OnnxPart>(detail::GraphFile(bundle, part->file), *part, options,
                                      bundle.info().precision == "tf32");
}

} // namespace

std::unique_ptr<Engine> open_onnxruntime(const Bundle &bundle, const EngineOptions &options) {
    const std::string path = bundle.engine();
    if (path.size() < 5 || path.compare(path.size() - 5, 5, ".onnx") != 0) {
        throw InputError(path + ": ONNX Runtime runs model.onnx; open this engine with open_tensorrt");
    }
    check_options(options);
    return std::make_unique<OnnxRuntime>(detail::GraphFile(bundle, "model.onnx"), bundle.info(), options);
}

std::unique_ptr<Part> open_encoder(const Bundle &bundle, const EngineOptions &options) {
    return open_part(bundle, bundle.encoder(), "encoder", options);
}

std::unique_ptr<Part> open_decoder(const Bundle &bundle, const EngineOptions &options) {
    return open_part(bundle, bundle.decoder(), "decoder", options);
}

} // namespace ncdeploy
