"""`python -m benchmarks.gpu -o gpu-check`: engines and samplers on this machine's GPU, with or without TensorRT.

Writes results.json, table.md and plots (SVG) into a folder, after every cell what there is so far. Needs PyTorch;
whatever else is missing is skipped by name. Needs no network connection: the networks are trained here, in a minute.

results.json holds

    format        1
    ncdeploy      version
    started       UTC, ISO 8601
    seconds       spent so far, over all runs that `--resume` put together
    settings      {device, quick, minutes}
    machine       {python, platform, cpu, cores, torch, cuda, cudnn, gpu, gpu_bytes, compute_capability, onnxruntime,
                  providers, tensorrt, onnx, smi}; null or [] for what is not there. smi: what nvidia-smi says, by name
    cells         [{id, kind, network, engine, plan, samples, status, reason, seconds, result}], most important first

    engine        {runtime, mode, precision} or null; plan: its name or null; samples: how many at once, or null
    status        ok, failed, skipped (cannot run here) or not reached (the time was over); reason: in words, "" if ok
    result        null unless ok, else by kind, times in seconds:

    network       {shape, parameters, data, steps, loss, seconds, digest}: how it was trained, in what time
    sampling      {sequential_s, depth, parallel: [{asked, window, seconds, gain, gain_range, sweeps, depth, nfe,
                  residual, rms, choice}], best}
                  asked: a window or "auto", window: what was taken, null if sequential; gain: sequential over parallel
                  time, paired, median, then least and largest; nfe: evaluations per evaluation of the plan; rms: to the
                  sequential samples, median; best: the fixed window with the largest gain
    latency       {rows, seconds, rms_to_torch, torch_peak_bytes}: t(B); D's distance from PyTorch in float32
    overhead      {window, calls, rows, seconds, overhead, overhead_range}: see `measure.overhead`
    copies        {window, sweeps, state_bytes, residual_bytes, python, device, device_reason, kernels, state_stays}
                  python, device: {copies, bytes, largest, bytes_to_device}, to the host, per sweep but for the largest;
                  see `measure.copies`
"""
