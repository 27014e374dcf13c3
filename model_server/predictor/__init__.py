"""The predictor: KServe V1, V2 and gRPC in front of a classifier."""
