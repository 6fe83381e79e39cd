package local

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// podWith is a good pod with one field set to a value, given as YAML; fields are separated by dots, numbers
// are elements of lists.
func podWith(t *testing.T, path, value string) string {
	t.Helper()
	var pod, v any
	for text, into := range map[string]*any{goodPod: &pod, value: &v} {
		if err := yaml.Unmarshal([]byte(text), into); err != nil {
			t.Fatal(err)
		}
	}
	at := pod
	steps := strings.Split(path, ".")
	for i, step := range steps {
		if list, isList := at.([]any); isList {
			if i == len(steps)-1 {
				list[step[0]-'0'] = v
			} else {
				at = list[step[0]-'0']
			}
			continue
		}
		in := at.(map[string]any)
		switch {
		case i == len(steps)-1:
			in[step] = v
		case in[step] == nil:
			in[step] = map[string]any{}
		}
		at = in[step]
	}
	text, err := yaml.Marshal(pod)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

const goodPod = `
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  initContainers: [{name: first, image: 'host:ls'}]
  containers:
  - name: main
    image: host:bash
    ports: [{name: http, containerPort: 80}, {containerPort: 81}]
    env: [{name: A, value: b}, {name: B, valueFrom: {fieldRef: {fieldPath: "metadata.labels['app']"}}}]
    volumeMounts: [{name: v, mountPath: /data}, {name: v, mountPath: /more, subPath: a/b}]
    livenessProbe: {tcpSocket: {port: 80}}
    lifecycle: {preStop: {sleep: {seconds: 5}}}
  volumes: [{name: v, emptyDir: {}}, {name: w, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}]
`

func TestFieldsThatAreNotHonouredAreRefused(t *testing.T) {
	for path, value := range map[string]string{
		"spec.hostNetwork": "true", "spec.hostPID": "true", "spec.hostIPC": "true", "spec.hostUsers": "true",
		"spec.activeDeadlineSeconds": "10", "spec.runtimeClassName": "gvisor", "spec.schedulerName": "mine",
		"spec.readinessGates": "[{conditionType: x}]", "spec.ephemeralContainers": "[{name: a, image: b}]",
		"spec.nodeSelector": "{disk: ssd}", "spec.affinity": "{nodeAffinity: {}}", "spec.topologySpreadConstraints": "[{}]",
		"spec.resources": "{limits: {cpu: 1}}", "spec.hostnameOverride": "x", "spec.os": "{name: windows}",
		"spec.schedulingGates": "[{name: x}]", "spec.resourceClaims": "[{name: x}]",
		"spec.securityContext.seLinuxOptions": "{level: a}", "spec.securityContext.seccompProfile": "{type: Localhost, localhostProfile: x}",
		"spec.initContainers.0.restartPolicy": "Always", "spec.containers.0.restartPolicy": "Never",
		"spec.containers.0.ports.0.hostPort": "80", "spec.containers.0.volumeDevices": "[{name: v, devicePath: /dev/a}]",
		"spec.containers.0.livenessProbe": "{grpc: {port: 1}}", "spec.containers.0.lifecycle.stopSignal": "SIGUSR1",
		"spec.containers.0.lifecycle.preStop":          "{tcpSocket: {port: 1}}",
		"spec.containers.0.securityContext.privileged": "true", "spec.containers.0.securityContext.procMount": "Unmasked",
		"spec.containers.0.resources.limits.ephemeral-storage": "1Gi", "spec.containers.0.resources.claims": "[{name: x}]",
		"spec.containers.0.volumeMounts.0.subPathExpr": "$(A)", "spec.containers.0.volumeMounts.0.mountPropagation": "Bidirectional",
		"spec.containers.0.env.0.valueFrom.fileKeyRef": "{volumeName: v, path: p, key: k}",
		"spec.volumes.0.persistentVolumeClaim":         "{claimName: a}", "spec.volumes.0.nfs": "{server: a, path: /}",
		"spec.volumes.0.image": "{reference: a}", "spec.volumes.0.ephemeral": "{}",
		"metadata.deletionTimestamp": "2026-01-01T00:00:00Z", "metadata.finalizers": "[a/b]",
	} {
		_, err := Parse("f", []byte(podWith(t, path, value)))
		wantError(t, err, "f, document 1: Pod default/p: ")
		if err != nil && !strings.Contains(err.Error(), fieldName(path)) {
			t.Errorf("%s is not named: %v", path, err)
		}
	}
}

// fieldName is the last name of a path.
func fieldName(path string) string {
	steps := strings.Split(path, ".")
	return steps[len(steps)-1]
}

func TestFieldsOfAFutureAPIAreRefused(t *testing.T) {
	_, err := Parse("f", []byte(podWith(t, "spec.containers.0.turbo", "true")))
	wantError(t, err, "spec.containers[0].turbo")
}

func TestFieldsThatMeanNothingHereAreTaken(t *testing.T) {
	for path, value := range map[string]string{
		"spec.hostNetwork": "false", "spec.hostUsers": "false", "spec.affinity": "{}", "spec.nodeSelector": "{kubernetes.io/os: linux}",
		"spec.priority": "1000", "spec.imagePullSecrets": "[{name: a}]", "spec.containers.0.volumeDevices": "[]",
		"spec.containers.0.securityContext.privileged": "false", "spec.runtimeClassName": "null", "spec.containers.0.resources": "{}",
		"spec.volumes.0": "{name: v, projected: {sources: [{serviceAccountToken: {path: t, audience: me}}]}}",
	} {
		if _, err := Parse("f", []byte(podWith(t, path, value))); err != nil {
			t.Errorf("%s: %v", path, err)
		}
	}
}

func TestValuesThatTheAPIServerWouldRefuse(t *testing.T) {
	for _, c := range []struct{ path, value, field string }{
		{"metadata.name", "A", "metadata.name"},
		{"metadata.labels", "{'a b': c}", "metadata.labels"},
		{"spec.containers", "[]", "spec.containers: Required"},
		{"spec.containers.0.name", "first", "spec.containers[0].name: Duplicate"},
		{"spec.containers.0.name", "", "spec.containers[0].name: Required"},
		{"spec.containers.0.image", "''", "spec.containers[0].image: Required"},
		{"spec.containers.0.imagePullPolicy", "Sometimes", "imagePullPolicy"},
		{"spec.containers.0.ports.0.containerPort", "70000", "spec.containers[0].ports[0].containerPort"},
		{"spec.containers.0.ports.1.name", "http", "spec.containers[0].ports[1].name: Duplicate"},
		{"spec.containers.0.ports.0.protocol", "ICMP", "spec.containers[0].ports[0].protocol"},
		{"spec.containers.0.env.0.name", "A=B", "spec.containers[0].env[0].name"},
		{"spec.containers.0.env.0.valueFrom.secretKeyRef", "{name: a, key: b}", "spec.containers[0].env[0].valueFrom"},
		{"spec.containers.0.env.1.valueFrom", "{}", "spec.containers[0].env[1].valueFrom: Required"},
		{"spec.containers.0.env.1.valueFrom.fieldRef.fieldPath", "spec.tolerations", "fieldPath"},
		{"spec.containers.0.env.1.valueFrom", "{resourceFieldRef: {resource: limits.gpu}}", "resourceFieldRef.resource"},
		{"spec.containers.0.env.1.valueFrom", "{resourceFieldRef: {resource: limits.cpu, containerName: nobody}}", "resourceFieldRef.containerName: Not found"},
		{"spec.containers.0.envFrom", "[{prefix: a}]", "spec.containers[0].envFrom[0]: Required"},
		{"spec.containers.0.resources", "{limits: {cpu: 1}, requests: {cpu: 2}}", "spec.containers[0].resources.requests"},
		{"spec.containers.0.resources.limits.memory", "-1", "spec.containers[0].resources.limits[memory]"},
		{"spec.containers.0.resources.limits.pids", "500m", "spec.containers[0].resources.limits[pids]"},
		{"spec.containers.0.volumeMounts.0.name", "none", "spec.containers[0].volumeMounts[0].name: Not found"},
		{"spec.containers.0.volumeMounts.0.mountPath", "data", "spec.containers[0].volumeMounts[0].mountPath"},
		{"spec.containers.0.volumeMounts.1.mountPath", "/data/", "must be unique"},
		{"spec.containers.0.volumeMounts.1.mountPath", "/", "must not be the root"},
		{"spec.containers.0.volumeMounts.1.subPath", "a/../..", "spec.containers[0].volumeMounts[1].subPath"},
		{"spec.containers.0.livenessProbe.exec", "{command: [a]}", "spec.containers[0].livenessProbe: Forbidden"},
		{"spec.containers.0.livenessProbe.tcpSocket.port", "nobody_knows", "spec.containers[0].livenessProbe.tcpSocket.port"},
		{"spec.containers.0.livenessProbe.successThreshold", "2", "successThreshold"},
		{"spec.containers.0.livenessProbe.periodSeconds", "-1", "periodSeconds"},
		{"spec.containers.0.readinessProbe", "{exec: {command: []}}", "spec.containers[0].readinessProbe.exec.command: Required"},
		{"spec.initContainers.0.readinessProbe", "{tcpSocket: {port: 1}}", "spec.initContainers[0].readinessProbe: Forbidden"},
		{"spec.containers.0.lifecycle.preStop.sleep.seconds", "31", "spec.containers[0].lifecycle.preStop.sleep.seconds"},
		{"spec.containers.0.terminationMessagePath", "log", "terminationMessagePath"},
		{"spec.containers.0.workingDir", "home", "workingDir"},
		{"spec.containers.0.securityContext.runAsUser", "-1", "spec.containers[0].securityContext.runAsUser"},
		{"spec.containers.0.securityContext", "{allowPrivilegeEscalation: false, capabilities: {add: [SYS_ADMIN]}}", "CAP_SYS_ADMIN"},
		{"spec.volumes.0.hostPath", "{path: /a}", "spec.volumes[0]: Forbidden"},
		{"spec.volumes.0", "{name: v, hostPath: {path: /a/../b}}", "spec.volumes[0].hostPath.path"},
		{"spec.volumes.0", "{name: v, hostPath: {path: /a, type: BlockDevice}}", "spec.volumes[0].hostPath.type"},
		{"spec.volumes.0", "{name: v, configMap: {}}", "spec.volumes[0].configMap.name: Required"},
		{"spec.volumes.0", "{name: v, secret: {secretName: s, items: [{key: a, path: ../x}]}}", "spec.volumes[0].secret.items[0].path"},
		{"spec.volumes.0", "{name: v, configMap: {name: s, defaultMode: 512}}", "spec.volumes[0].configMap.defaultMode"},
		{"spec.volumes.0", "{name: v, projected: {sources: [{secret: {name: a, items: [{key: k, path: p}]}}, {configMap: {name: a, items: [{key: k, path: p}]}}]}}", "conflicting duplicate paths"},
		{"spec.volumes.0", "{name: v, emptyDir: {medium: HugePages}}", "spec.volumes[0].emptyDir.medium"},
		{"spec.volumes.1.name", "v", "spec.volumes[1].name: Duplicate"},
		{"spec.restartPolicy", "Once", "spec.restartPolicy"},
		{"spec.dnsPolicy", "None", "spec.dnsConfig.nameservers: Required"},
		{"spec.dnsConfig.options", "[{name: \"a\\nnameserver 1.2.3.4\"}]", "spec.dnsConfig.options[0].name"},
		{"spec.dnsConfig.searches", "['a b']", "spec.dnsConfig.searches[0]"},
		{"spec.dnsConfig.nameservers", "[a]", "spec.dnsConfig.nameservers[0]"},
		{"spec.hostname", "a.b", "spec.hostname"},
		{"spec.hostAliases", "[{ip: x, hostnames: [a]}]", "spec.hostAliases[0].ip"},
		{"spec.securityContext.sysctls", "[{name: kernel.panic, value: '1'}]", "spec.securityContext.sysctls[0].name"},
		{"spec.securityContext.supplementalGroups", "[70000]", "spec.securityContext.supplementalGroups[0]"},
	} {
		_, err := Parse("f", []byte(podWith(t, c.path, c.value)))
		wantError(t, err, "f, document 1: ", c.field)
	}
	if _, err := Parse("f", []byte(podWith(t, "spec.securityContext.sysctls", "[{name: net.ipv4.ip_unprivileged_port_start, value: '0'}]"))); err != nil {
		t.Error(err)
	}
}

func TestAPodWithoutDefaultsCanBeValidated(t *testing.T) {
	pod := simplePod("a", nil)
	pod.Spec.TerminationGracePeriodSeconds, pod.Spec.SecurityContext = nil, nil
	pod.Spec.Containers[0].Resources.Limits = nil
	if err := ValidatePod(pod); err != nil {
		t.Error(err)
	}
}
