{{/*
The pods of one track. Called with root (the chart's context), track (stable or canary), model (version of the model)
and image.

An init container brings the exported model, the next makes the model repository from it (on a GPU: with a plan built on
this node by the TensorRT of the image that serves it), then Triton serves that. All of them without rights.
*/}}
{{- define "sparseinst.pod" -}}
{{- $root := .root -}}
{{- with .root.Values -}}
metadata:
  annotations:
    # A change of what the containers run rolls the pods.
    checksum/scripts: {{ include "sparseinst.scripts" $root | sha256sum }}
    {{- with .podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  labels:  # not the chart's version: pods that stay the same need no roll-out
    {{- include "sparseinst.selector" $root | nindent 4 }}
    sparseinst/track: {{ $.track }}
    sparseinst/model: {{ $.model | quote }}
    {{- with .podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "sparseinst.serviceAccount" $root }}
  automountServiceAccountToken: false
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ .terminationGracePeriodSeconds }}
  {{- with .imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .runtimeClassName }}
  runtimeClassName: {{ . }}
  {{- end }}
  {{- with .priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    runAsNonRoot: true
    runAsUser: {{ .securityContext.runAsUser }}
    runAsGroup: {{ .securityContext.runAsUser }}
    fsGroup: {{ .securityContext.runAsUser }}
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- $selector := .nodeSelector }}
  {{- if and .gpu.enabled .gpu.product }}
  {{- $selector = merge (dict "nvidia.com/gpu.product" .gpu.product) (deepCopy $selector) }}
  {{- end }}
  {{- with $selector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if or .gpu.enabled .tolerations }}
  tolerations:
    {{- if .gpu.enabled }}
    - key: nvidia.com/gpu
      operator: Exists
      effect: NoSchedule
    {{- end }}
    {{- with .tolerations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- end }}
  {{- with .affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if .topologySpread }}
  topologySpreadConstraints:
    {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway  # a full zone is no reason to serve less
      labelSelector:
        matchLabels:
          {{- include "sparseinst.selector" $root | nindent 10 }}
      matchLabelKeys: [pod-template-hash]
    {{- end }}
  {{- end }}
  initContainers:
    {{- include "sparseinst.fetch" $ | nindent 4 }}
    - name: repository
      image: {{ $.image }}
      imagePullPolicy: {{ .image.pullPolicy }}
      command: [/bin/sh, /scripts/repository.sh]
      args:
        - {{ .preset }}
        - {{ .engine.timeoutSeconds | quote }}
        {{- range .engine.options }}
        - {{ . | quote }}
        {{- end }}
      {{- include "sparseinst.container" $root | nindent 6 }}
      volumeMounts:
        - name: scripts
          mountPath: /scripts
          readOnly: true
        - name: model
          mountPath: /model
          readOnly: true
          {{- if eq .model.source "pvc" }}
          subPath: {{ printf "%s/%s" .model.pvc.path $.model | trimPrefix "/" }}
          {{- end }}
        - name: repository
          mountPath: /models
        - name: tmp
          mountPath: /tmp
        {{- if eq .preset "tensorrt" }}
        - name: engines
          mountPath: /engines
        {{- end }}
  containers:
    - name: triton
      image: {{ $.image }}
      imagePullPolicy: {{ .image.pullPolicy }}
      command: [/bin/sh, /scripts/serve.sh]
      args:
        - {{ join "," .server.closedApis | quote }}
        {{- include "sparseinst.tritonFlags" $root | nindent 8 }}
      {{- include "sparseinst.container" $root | nindent 6 }}
      ports:
        - name: http
          containerPort: 8000
        - name: grpc
          containerPort: 8001
        - name: metrics
          containerPort: 8002
      # An inference each: see files/probe.py for what they tell apart. They need no network and no token.
      {{- range $name, $probe := .probes }}
      {{ $name }}Probe:
        exec:
          command: [python3, /scripts/probe.py, "http://127.0.0.1:8000", "http://127.0.0.1:8002/metrics"]
        periodSeconds: {{ $probe.periodSeconds }}
        timeoutSeconds: 10
        failureThreshold: {{ $probe.failureThreshold }}
      {{- end }}
      lifecycle:
        preStop:
          sleep:
            seconds: {{ .drainSeconds }}  # until nobody sends new requests here
      volumeMounts:
        - name: scripts
          mountPath: /scripts
          readOnly: true
        - name: repository
          mountPath: /models
          readOnly: true
        - name: tmp
          mountPath: /tmp
        - name: shm
          mountPath: /dev/shm
        {{- if .server.adminKeySecret }}
        - name: admin-key
          mountPath: /admin
          readOnly: true
        {{- end }}
  volumes:
    - name: scripts
      configMap:
        name: {{ include "sparseinst.fullname" $root }}-scripts
    - name: model
      {{- if eq .model.source "pvc" }}
      persistentVolumeClaim:
        claimName: {{ .model.pvc.claimName }}
        readOnly: true
      {{- else }}
      emptyDir:
        sizeLimit: 2Gi
      {{- end }}
    - name: repository
      emptyDir:
        sizeLimit: 2Gi
    - name: tmp
      emptyDir:
        sizeLimit: 1Gi
    - name: shm  # between Triton and its Python models; counts as memory of the container
      emptyDir:
        medium: Memory
        sizeLimit: {{ .sharedMemory }}
    {{- if eq .preset "tensorrt" }}
    - name: engines
      {{- if eq .engine.cache.type "pvc" }}
      persistentVolumeClaim:
        claimName: {{ include "sparseinst.engineClaim" $root }}
      {{- else }}
      emptyDir:
        sizeLimit: {{ .engine.cache.size }}
      {{- end }}
    {{- end }}
    {{- if and (eq .model.source "objectStore") .model.objectStore.credentialsSecret }}
    - name: store-credentials
      secret:
        secretName: {{ .model.objectStore.credentialsSecret }}
        defaultMode: 0440
    {{- end }}
    {{- if .server.adminKeySecret }}
    - name: admin-key
      secret:
        secretName: {{ .server.adminKeySecret }}
        defaultMode: 0440
    {{- end }}
{{- end -}}
{{- end }}

{{/* What the containers run, by file name. */}}
{{- define "sparseinst.scripts" -}}
{{- range list "repository.sh" "serve.sh" "probe.py" }}
{{ . }}: |
  {{- $.Files.Get (printf "files/%s" .) | nindent 2 }}
{{- end }}
{{- end }}

{{/* Rights, resources and environment of every container that runs the server's image. */}}
{{- define "sparseinst.container" -}}
securityContext:
  {{- include "sparseinst.noRights" . | nindent 2 }}
env:
  - name: HOME  # nothing else can be written
    value: /tmp
resources:
  {{- range $kind := list "requests" "limits" }}
  {{ $kind }}:
    {{- get $.Values.resources $kind | toYaml | nindent 4 }}
    {{- if $.Values.gpu.enabled }}
    {{ $.Values.gpu.resource }}: {{ $.Values.gpu.count }}
    {{- end }}
  {{- end }}
{{- end }}

{{- define "sparseinst.noRights" -}}
allowPrivilegeEscalation: false
privileged: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The init container that brings the model; a claim needs none. */}}
{{- define "sparseinst.fetch" -}}
{{- $root := .root -}}
{{- with .root.Values.model -}}
{{- if eq .source "image" -}}
- name: model
  image: {{ default $.image .image.reference }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  command: [cp, -R, "{{ .image.path }}/{{ $.model }}/.", /model]
  {{- include "sparseinst.smallContainer" $root | nindent 2 }}
  volumeMounts:
    - name: model
      mountPath: /model
{{- else if eq .source "objectStore" -}}
{{- $store := .objectStore -}}
{{- $google := hasPrefix "gs://" $store.uri -}}
- name: model
  image: {{ include "sparseinst.image" $store.image }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  args: [copy, "store:{{ regexReplaceAll "^[a-z0-9]+://" $store.uri "" | trimSuffix "/" }}/{{ $.model }}", /model]
  {{- include "sparseinst.smallContainer" $root | nindent 2 }}
  env:
    - name: HOME
      value: /tmp
    - name: RCLONE_CONFIG_STORE_TYPE
      value: {{ ternary "google cloud storage" "s3" $google }}
    - name: RCLONE_CONFIG_STORE_ENV_AUTH  # the pod's own identity, or the file below
      value: "true"
    {{- if $google }}
    - name: RCLONE_CONFIG_STORE_BUCKET_POLICY_ONLY
      value: "true"
    {{- if $store.credentialsSecret }}
    - name: GOOGLE_APPLICATION_CREDENTIALS
      value: /credentials/key.json
    {{- end }}
    {{- else }}
    - name: RCLONE_CONFIG_STORE_PROVIDER
      value: {{ ternary "Other" "AWS" (ne $store.endpoint "") }}
    {{- with $store.endpoint }}
    - name: RCLONE_CONFIG_STORE_ENDPOINT
      value: {{ . | quote }}
    {{- end }}
    {{- with $store.region }}
    - name: RCLONE_CONFIG_STORE_REGION
      value: {{ . | quote }}
    {{- end }}
    {{- if $store.credentialsSecret }}
    - name: AWS_SHARED_CREDENTIALS_FILE
      value: /credentials/credentials
    {{- end }}
    {{- end }}
  volumeMounts:
    - name: model
      mountPath: /model
    - name: tmp
      mountPath: /tmp
    {{- if $store.credentialsSecret }}
    - name: store-credentials
      mountPath: /credentials
      readOnly: true
    {{- end }}
{{- end -}}
{{- end -}}
{{- end }}

{{- define "sparseinst.smallContainer" -}}
securityContext:
  {{- include "sparseinst.noRights" . | nindent 2 }}
resources:
  requests:
    cpu: 100m
    memory: 128Mi
  limits:
    cpu: "1"
    memory: 512Mi
{{- end }}

{{/* What Triton is told; the APIs that are closed are serve.sh's. */}}
{{- define "sparseinst.tritonFlags" -}}
{{- with .Values.server -}}
- --model-repository=/models/repository
- --model-config-name={{ $.Values.preset }}
- --disable-auto-complete-config
- --strict-readiness=true
- --exit-on-error=true
- --exit-timeout-secs={{ .exitTimeoutSeconds }}
- --http-port=8000
- --grpc-port=8001
- --metrics-port=8002
- --metrics-interval-ms={{ mul .metricsIntervalSeconds 1000 }}
- --allow-gpu-metrics={{ $.Values.gpu.enabled }}
- --metrics-config=summary_latencies=true  # the quantiles that rules and dashboard ask for
- --log-format=ISO8601
- --log-verbose={{ .logVerbose }}
{{- if .grpcMaxConnectionAgeSeconds }}
# Clients connect again now and then, and so find new replicas.
- --grpc-max-connection-age={{ mul .grpcMaxConnectionAgeSeconds 1000 }}
- --grpc-max-connection-age-grace={{ mul .exitTimeoutSeconds 1000 }}
{{- end }}
{{- with .tracing.endpoint }}
- --trace-config=mode=opentelemetry
- --trace-config=opentelemetry,url={{ . }}
- --trace-config=opentelemetry,resource=service.name=sparseinst
- --trace-config=level=TIMESTAMPS
- --trace-config=rate={{ $.Values.server.tracing.rate }}
{{- end }}
{{- range .extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end -}}
{{- end }}
