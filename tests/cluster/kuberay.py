"""The fields of KubeRay's v1 resources that our manifests may use, as a JSON schema.

Written after the operator's types (RayCluster, RayJob, RayService; KubeRay 1.6); Kubernetes drops a
field that it does not know without a word, so an unknown one is an error here.
"""

from typing import Any

_STRING = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_FLAG = {"type": "boolean"}
_PARAMETERS = {"type": "object", "additionalProperties": _STRING}


def _object(required: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": list(required),
        "properties": fields,
        "additionalProperties": False,
    }


_SECRET_KEY = _object(("name", "key"), name=_STRING, key=_STRING)
_FROM_SECRET = _object(("secretKeyRef",), secretKeyRef=_SECRET_KEY)
_CREDENTIAL = _object(("valueFrom",), valueFrom=_FROM_SECRET)
_ENTRY = _object(("name",), name=_STRING, value=_STRING, valueFrom=_FROM_SECRET)
_QUANTITIES = {"type": "object", "additionalProperties": _STRING}
_RESOURCES = _object(("limits",), requests=_QUANTITIES, limits=_QUANTITIES)
_CONTAINER_SECURITY = _object(
    allowPrivilegeEscalation=_FLAG,
    readOnlyRootFilesystem=_FLAG,
    capabilities=_object(drop={"type": "array", "items": _STRING}),
)
_CONTAINER = _object(
    ("name", "image", "resources", "securityContext"),
    name=_STRING,
    image=_STRING,
    command={"type": "array", "items": _STRING},
    args={"type": "array", "items": _STRING},
    env={"type": "array", "items": _ENTRY},
    resources=_RESOURCES,
    securityContext=_CONTAINER_SECURITY,
    volumeMounts={
        "type": "array",
        "items": _object(
            ("name", "mountPath"), name=_STRING, mountPath=_STRING, readOnly={"type": "boolean"}
        ),
    },
)
_VOLUME = _object(
    ("name",),
    name=_STRING,
    persistentVolumeClaim=_object(("claimName",), claimName=_STRING),
    emptyDir=_object(medium={"enum": ["Memory"]}, sizeLimit=_STRING),
)
_POD = _object(
    ("spec",),
    metadata=_object(labels=_PARAMETERS),
    spec=_object(
        ("containers", "securityContext"),
        restartPolicy={"enum": ["Always", "OnFailure", "Never"]},
        automountServiceAccountToken=_FLAG,
        securityContext=_object(
            runAsNonRoot=_FLAG,
            runAsUser=_COUNT,
            runAsGroup=_COUNT,
            fsGroup=_COUNT,
            seccompProfile=_object(("type",), type=_STRING),
        ),
        containers={"type": "array", "items": _CONTAINER, "minItems": 1},
        volumes={"type": "array", "items": _VOLUME},
    ),
)
CLUSTER = _object(
    ("headGroupSpec", "rayVersion", "authOptions"),
    rayVersion=_STRING,
    suspend=_FLAG,
    authOptions=_object(("mode",), mode={"enum": ["token", "disabled"]}, secretName=_STRING),
    gcsFaultToleranceOptions=_object(
        ("redisAddress",),
        redisAddress=_STRING,
        redisUsername=_CREDENTIAL,
        redisPassword=_CREDENTIAL,
        externalStorageNamespace=_STRING,
    ),
    enableInTreeAutoscaling=_FLAG,
    autoscalerOptions=_object(
        version={"enum": ["v1", "v2"]},
        idleTimeoutSeconds=_COUNT,
        upscalingMode={"enum": ["Default", "Aggressive", "Conservative"]},
        resources=_RESOURCES,
        securityContext=_CONTAINER_SECURITY,
    ),
    headGroupSpec=_object(
        ("rayStartParams", "template"),
        rayStartParams=_PARAMETERS,
        serviceType=_STRING,
        template=_POD,
    ),
    workerGroupSpecs={
        "type": "array",
        "items": _object(
            ("groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"),
            groupName=_STRING,
            replicas=_COUNT,
            minReplicas=_COUNT,
            maxReplicas=_COUNT,
            numOfHosts=_COUNT,
            idleTimeoutSeconds=_COUNT,
            rayStartParams=_PARAMETERS,
            template=_POD,
        ),
    },
)
JOB = _object(
    ("entrypoint", "rayClusterSpec"),
    entrypoint=_STRING,
    submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode"]},
    backoffLimit=_COUNT,
    activeDeadlineSeconds={"type": "integer", "minimum": 1},
    shutdownAfterJobFinishes=_FLAG,
    ttlSecondsAfterFinished=_COUNT,
    suspend=_FLAG,
    runtimeEnvYAML=_STRING,
    rayClusterSpec=CLUSTER,
    submitterPodTemplate=_POD,
)
_PERCENT = {"type": "integer", "minimum": 0, "maximum": 100}
SERVICE = _object(
    ("serveConfigV2", "rayClusterConfig", "upgradeStrategy"),
    serveConfigV2=_STRING,
    rayClusterConfig=CLUSTER,
    upgradeStrategy=_object(
        ("type", "clusterUpgradeOptions"),
        type={"enum": ["NewCluster", "NewClusterWithIncrementalUpgrade", "None"]},
        clusterUpgradeOptions=_object(
            ("gatewayClassName", "stepSizePercent", "intervalSeconds"),
            gatewayClassName={"type": "string", "minLength": 1},
            maxSurgePercent=_PERCENT,
            stepSizePercent=_PERCENT,
            intervalSeconds={"type": "integer", "minimum": 1},
        ),
    ),
    excludeHeadPodFromServeSvc=_FLAG,
    rayClusterDeletionDelaySeconds=_COUNT,
)
