"""The fields of the typed kinds, in the order in which Kubernetes writes them. Data only; `decode` reads it.

A type is `string`, `int32`, `int64`, `bool`, `intstr`, `quantity`, `microtime`, `object`, `map` (of strings), `quantities`
and `bytes` (maps of those), `[]X` for a list, or the name of a struct of this table. `bool!` is left out when false.
"""

from __future__ import annotations

_HANDLER = "exec:ExecAction httpGet:HTTPGetAction tcpSocket:TCPSocketAction"
_CONTAINER = (
    "name:string image:string command:[]string args:[]string workingDir:string ports:[]ContainerPort "
    "envFrom:[]EnvFromSource env:[]EnvVar resources:ResourceRequirements resizePolicy:[]object restartPolicy:string "
    "restartPolicyRules:[]object volumeMounts:[]VolumeMount volumeDevices:[]object livenessProbe:Probe "
    "readinessProbe:Probe startupProbe:Probe lifecycle:Lifecycle terminationMessagePath:string "
    "terminationMessagePolicy:string imagePullPolicy:string securityContext:SecurityContext "
    "stdin:bool! stdinOnce:bool! tty:bool!"
)
_VOLUME_SOURCES = (
    "hostPath emptyDir gcePersistentDisk awsElasticBlockStore gitRepo secret nfs iscsi glusterfs "
    "persistentVolumeClaim rbd flexVolume cinder cephfs flocker downwardAPI fc azureFile configMap vsphereVolume "
    "quobyte azureDisk photonPersistentDisk projected portworxVolume scaleIO storageos csi ephemeral image"
)

_TEXT: dict[str, str] = {
    "ObjectMeta": (
        "name:string generateName:string namespace:string uid:string resourceVersion:string generation:int64 "
        "creationTimestamp:string deletionTimestamp:string deletionGracePeriodSeconds:int64 labels:map "
        "annotations:map ownerReferences:[]OwnerReference finalizers:[]string"
    ),
    "OwnerReference": ("apiVersion:string kind:string name:string uid:string controller:bool blockOwnerDeletion:bool"),
    "Pod": "metadata:ObjectMeta spec:PodSpec status:object",
    "PodSpec": (
        "volumes:[]Volume initContainers:[]Container containers:[]Container ephemeralContainers:[]object "
        "restartPolicy:string terminationGracePeriodSeconds:int64 activeDeadlineSeconds:int64 dnsPolicy:string "
        "nodeSelector:map serviceAccountName:string serviceAccount:string automountServiceAccountToken:bool "
        "nodeName:string hostNetwork:bool! hostPID:bool! hostIPC:bool! shareProcessNamespace:bool "
        "securityContext:PodSecurityContext imagePullSecrets:[]object hostname:string subdomain:string "
        "affinity:object schedulerName:string tolerations:[]Toleration hostAliases:[]object priorityClassName:string "
        "priority:int32 dnsConfig:object readinessGates:[]object runtimeClassName:string enableServiceLinks:bool "
        "preemptionPolicy:string overhead:quantities topologySpreadConstraints:[]object setHostnameAsFQDN:bool "
        "os:object hostUsers:bool schedulingGates:[]object resourceClaims:[]object resources:ResourceRequirements "
        "hostnameOverride:string"
    ),
    "Container": _CONTAINER,
    "ContainerPort": "name:string hostPort:int32 containerPort:int32 protocol:string hostIP:string",
    "EnvFromSource": "prefix:string configMapRef:object secretRef:object",
    "EnvVarSource": (
        "fieldRef:object resourceFieldRef:object configMapKeyRef:object secretKeyRef:object fileKeyRef:object"
    ),
    "EnvVar": "name:string value:string valueFrom:EnvVarSource",
    "ResourceRequirements": "limits:quantities requests:quantities claims:[]object",
    "VolumeMount": (
        "name:string readOnly:bool! recursiveReadOnly:string mountPath:string subPath:string "
        "mountPropagation:string subPathExpr:string"
    ),
    "Probe": (
        f"{_HANDLER} grpc:GRPCAction initialDelaySeconds:int32 timeoutSeconds:int32 periodSeconds:int32 "
        "successThreshold:int32 failureThreshold:int32 terminationGracePeriodSeconds:int64"
    ),
    "Lifecycle": "postStart:LifecycleHandler preStop:LifecycleHandler stopSignal:string",
    "LifecycleHandler": f"{_HANDLER} sleep:object",
    "ExecAction": "command:[]string",
    "HTTPGetAction": "path:string port:intstr host:string scheme:string httpHeaders:[]object",
    "TCPSocketAction": "port:intstr host:string",
    "GRPCAction": "port:int32 service:string",
    "SecurityContext": (
        "capabilities:Capabilities privileged:bool seLinuxOptions:object windowsOptions:object runAsUser:int64 "
        "runAsGroup:int64 runAsNonRoot:bool readOnlyRootFilesystem:bool allowPrivilegeEscalation:bool "
        "procMount:string seccompProfile:SeccompProfile appArmorProfile:SeccompProfile"
    ),
    "PodSecurityContext": (
        "seLinuxOptions:object windowsOptions:object runAsUser:int64 runAsGroup:int64 runAsNonRoot:bool "
        "supplementalGroups:[]int64 supplementalGroupsPolicy:string fsGroup:int64 sysctls:[]object "
        "fsGroupChangePolicy:string seccompProfile:SeccompProfile appArmorProfile:SeccompProfile "
        "seLinuxChangePolicy:string"
    ),
    "Capabilities": "add:[]string drop:[]string",
    "SeccompProfile": "type:string localhostProfile:string",
    "Toleration": "key:string operator:string value:string effect:string tolerationSeconds:int64",
    "Volume": "name:string " + " ".join(f"{source}:object" for source in _VOLUME_SOURCES.split()),
    "Service": "metadata:ObjectMeta spec:ServiceSpec status:object",
    "ServiceSpec": (
        "ports:[]ServicePort selector:map clusterIP:string clusterIPs:[]string type:string externalIPs:[]string "
        "sessionAffinity:string loadBalancerIP:string loadBalancerSourceRanges:[]string externalName:string "
        "externalTrafficPolicy:string healthCheckNodePort:int32 publishNotReadyAddresses:bool! "
        "sessionAffinityConfig:object ipFamilies:[]string ipFamilyPolicy:string allocateLoadBalancerNodePorts:bool "
        "loadBalancerClass:string internalTrafficPolicy:string trafficDistribution:string"
    ),
    "ServicePort": ("name:string protocol:string appProtocol:string port:int32 targetPort:intstr nodePort:int32"),
    "Namespace": "metadata:ObjectMeta spec:object status:object",
    "Node": "metadata:ObjectMeta spec:NodeSpec status:NodeStatus",
    "NodeSpec": (
        "podCIDR:string podCIDRs:[]string providerID:string unschedulable:bool! taints:[]Taint configSource:object "
        "externalID:string"
    ),
    "Taint": "key:string value:string effect:string timeAdded:string",
    "NodeStatus": (
        "capacity:quantities allocatable:quantities phase:string conditions:[]object addresses:[]object "
        "daemonEndpoints:object nodeInfo:object images:[]object volumesInUse:[]string volumesAttached:[]object "
        "config:object runtimeHandlers:[]object features:object declaredFeatures:[]string"
    ),
    "ResourceQuota": "metadata:ObjectMeta spec:ResourceQuotaSpec status:object",
    "ResourceQuotaSpec": "hard:quantities scopes:[]string scopeSelector:object",
    "LimitRange": "metadata:ObjectMeta spec:LimitRangeSpec",
    "LimitRangeSpec": "limits:[]LimitRangeItem",
    "LimitRangeItem": (
        "type:string max:quantities min:quantities default:quantities defaultRequest:quantities "
        "maxLimitRequestRatio:quantities"
    ),
    "NetworkPolicy": "metadata:ObjectMeta spec:NetworkPolicySpec",
    "NetworkPolicySpec": "podSelector:object ingress:[]object egress:[]object policyTypes:[]string",
    "ConfigMap": "metadata:ObjectMeta immutable:bool data:map binaryData:bytes",
    "Lease": "metadata:ObjectMeta spec:LeaseSpec",
    "LeaseSpec": (
        "holderIdentity:string leaseDurationSeconds:int32 acquireTime:microtime renewTime:microtime "
        "leaseTransitions:int32 strategy:string preferredHolder:string"
    ),
}

Struct = dict[str, tuple[int, str]]
"""Field → its place and its type."""


def _read(text: str) -> Struct:
    return {name: (place, kind) for place, (name, _, kind) in enumerate(f.partition(":") for f in text.split())}


STRUCTS: dict[str, Struct] = {name: _read(text) for name, text in _TEXT.items()}
