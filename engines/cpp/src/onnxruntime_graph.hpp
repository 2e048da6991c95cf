// An ONNX graph on ONNX Runtime, with arrays in and out that are not copied.
#pragma once

#define ORT_API_MANUAL_INIT
#include <onnxruntime_cxx_api.h>

#include <string>
#include <vector>

#include "ncdeploy/ncdeploy.hpp"

namespace ncdeploy::detail {

// An input or output: its first axis is the batch, or the samples, and dynamic.
struct Port {
    std::string name;
    DType dtype;
    std::vector<std::int64_t> shape; // behind the first axis
};

// A graph's file, in a folder or in memory with those that hold its values.
struct GraphFile {
    GraphFile(const Bundle &bundle, const std::string &name);

    std::string path;
    std::string_view bytes; // empty: it is read from the path
    Files others;
};

// What a port holds in a call: float or std::int64_t [count, *shape].
struct View {
    std::size_t count;
    const void *data;
};

class OnnxGraph {
  public:
    // Throws FileError for a graph that has other ports than these, BackendError, InputError for options.
    OnnxGraph(const GraphFile &file, std::vector<Port> inputs, std::vector<Port> outputs, const EngineOptions &options,
              bool tf32);

    const std::string &name() const { return name_; } // for reports

    // One call: a view for each port, in their order; those of outputs are written to. Throws BackendError.
    void run(const std::vector<View> &inputs, const std::vector<View> &outputs);

  private:
    struct Bound { // a port as the runtime knows it
        std::string name;
        ONNXTensorElementDataType type;
        std::vector<std::int64_t> shape; // with the first axis, -1
    };

    static std::vector<Bound> bound(const std::vector<Port> &ports);
    void check(const std::string &path, const char *kind, const std::vector<Bound> &wanted, bool outputs) const;
    void fill(std::vector<Ort::Value> &values, std::vector<Bound> &ports, const std::vector<View> &views);

    std::string name_;
    Ort::Env env_;
    Ort::Session session_;
    Ort::MemoryInfo memory_;
    std::vector<Bound> inputs_, outputs_;
    std::vector<const char *> input_names_, output_names_;
    std::vector<Ort::Value> in_, out_;
};

} // namespace ncdeploy::detail
