"""What the engine measures: outputs, process-global state, modules and images."""
