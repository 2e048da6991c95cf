"""Ask `ncdeploy serve` for samples with the client of Triton and KServe: pip install tritonclient[http]

python examples/serve_client.py localhost:8000 digits
"""

import sys

import numpy as np
import tritonclient.http as http

client = http.InferenceServerClient(sys.argv[1])
seed = http.InferInput("seed", [4], "UINT64")
seed.set_data_from_numpy(np.arange(4, dtype=np.uint64))
answer = client.infer(sys.argv[2], [seed], parameters={"plan": "ddim-50"})
print(answer.as_numpy("samples").shape, "in", answer.as_numpy("sweeps"), "sweeps")
