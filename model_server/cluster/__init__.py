"""Rolling a model out on Kubernetes: the InferenceService of a release is changed, and watched until it stands."""
