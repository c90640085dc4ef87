"""What protoc makes of proto/devicedb/v1. Made by clients/generate.sh."""
