"""What files say of themselves: ONNX files, plans, engines' sidecars, graph records, bundles. NumPy alone."""
