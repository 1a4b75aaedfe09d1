{{/* What is asked for twice or more: names, labels, the image, and what two values must not say together. */}}

{{/* At most 40 letters, so that every suffix of ours and of Kubernetes fits into its 63. */}}
{{- define "sparseinst.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "sparseinst.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "sparseinst.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "sparseinst.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "sparseinst.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "sparseinst.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* repository:tag, or repository@digest, which cannot change under us. */}}
{{- define "sparseinst.image" -}}
{{- if .digest -}}{{ .repository }}@{{ .digest }}{{- else -}}{{ .repository }}:{{ .tag }}{{- end -}}
{{- end }}

{{/* The volume that keeps plans from one pod to the next. */}}
{{- define "sparseinst.engineClaim" -}}
{{- default (printf "%s-engines" (include "sparseinst.fullname" .)) .Values.engine.cache.existingClaim -}}
{{- end }}

{{/* What the schema cannot say: values that are each right, and wrong together. */}}
{{- define "sparseinst.check" -}}
{{- $need := add .Values.drainSeconds .Values.server.exitTimeoutSeconds 5 -}}
{{- if lt (int .Values.terminationGracePeriodSeconds) (int $need) -}}
{{- fail (printf "terminationGracePeriodSeconds is %v; wanted at least %v: drainSeconds + server.exitTimeoutSeconds + 5, or requests under way are cut off" .Values.terminationGracePeriodSeconds $need) -}}
{{- end -}}
{{- if and (eq .Values.preset "tensorrt") (not .Values.gpu.enabled) -}}
{{- fail "preset tensorrt needs a GPU: set gpu.enabled, or preset: cpu" -}}
{{- end -}}
{{- if and (eq .Values.preset "tensorrt") (le (int .Values.progressDeadlineSeconds) (int .Values.engine.timeoutSeconds)) -}}
{{- fail (printf "progressDeadlineSeconds is %v; wanted more than engine.timeoutSeconds (%v), or a first roll-out counts as failed while it builds" .Values.progressDeadlineSeconds .Values.engine.timeoutSeconds) -}}
{{- end -}}
{{- if and (eq .Values.model.source "pvc") (not .Values.model.pvc.claimName) -}}
{{- fail "model.source is pvc; wanted model.pvc.claimName, the claim with the exported models" -}}
{{- end -}}
{{- if and (eq .Values.model.source "objectStore") (not .Values.model.objectStore.uri) -}}
{{- fail "model.source is objectStore; wanted model.objectStore.uri, s3://bucket/folder or gs://bucket/folder" -}}
{{- end -}}
{{- if and (eq (int .Values.rollout.maxSurge) 0) (eq (int .Values.rollout.maxUnavailable) 0) -}}
{{- fail "rollout.maxSurge and rollout.maxUnavailable are both 0, so no roll-out could ever begin" -}}
{{- end -}}
{{- if gt (int .Values.autoscaling.minReplicas) (int .Values.autoscaling.maxReplicas) -}}
{{- fail (printf "autoscaling.minReplicas is %v; wanted at most maxReplicas (%v)" .Values.autoscaling.minReplicas .Values.autoscaling.maxReplicas) -}}
{{- end -}}
{{- with .Values.autoscaling -}}
{{- if and (ne .kind "none") (not (or .queueMilliseconds .cpuPercent (and $.Values.gpu.enabled .gpuPercent))) -}}
{{- fail (printf "autoscaling.kind is %s; wanted something to go by: queueMilliseconds, gpuPercent (on a GPU) or cpuPercent" .kind) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.ingress.enabled (not (and .Values.ingress.tlsSecret .Values.ingress.httpHost .Values.ingress.grpcHost)) -}}
{{- fail "ingress.enabled; wanted ingress.httpHost, ingress.grpcHost and ingress.tlsSecret: pictures do not travel unencrypted" -}}
{{- end -}}
{{- if and .Values.gateway.enabled (not (and .Values.gateway.name .Values.gateway.httpHost .Values.gateway.grpcHost)) -}}
{{- fail "gateway.enabled; wanted gateway.name, gateway.httpHost and gateway.grpcHost" -}}
{{- end -}}
{{- if and .Values.canary.enabled (not (or .Values.canary.modelVersion .Values.canary.imageTag .Values.canary.imageDigest)) -}}
{{- fail "canary.enabled; wanted canary.modelVersion, canary.imageTag or canary.imageDigest: what is it to try?" -}}
{{- end -}}
{{- if and .Values.canary.enabled (gt (int .Values.canary.weight) 0) (not (or .Values.ingress.enabled .Values.gateway.enabled)) -}}
{{- fail "canary.weight is for an Ingress or a Gateway, and neither is enabled; wanted canary.weight: 0, which shares requests by replicas" -}}
{{- end -}}
{{- end }}
