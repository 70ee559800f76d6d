"""Studies that train or evaluate many models: windows, position schemes."""
