{{/* What clients may call from outside, and how it is matched. */}}
{{- define "sparseinst.httpPaths" -}}
/v2: Exact
/v2/health: Prefix
/v2/models/sparseinst: Prefix
/v2/models/sparseinst_pixels: Prefix
{{- end }}

{{- define "sparseinst.grpcPaths" -}}
{{- range list "ServerLive" "ServerReady" "ServerMetadata" "ModelReady" "ModelMetadata" "ModelConfig" "ModelInfer" }}
/inference.GRPCInferenceService/{{ . }}: Exact
{{- end }}
{{- end }}
