package local

import (
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
)

const folderPod = `
apiVersion: v1
kind: Pod
metadata: {name: web, labels: {app: web}}
spec:
  containers:
  - name: main
    image: host:bash,ls
    resources: {limits: {memory: 64Mi, cpu: 1500u, pids: 10}}
    readinessProbe: {httpGet: {port: http}}
    ports: [{name: http, containerPort: 8080}]
    env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}]
  volumes: [{name: a, configMap: {name: files}}, {name: b}]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: files}
data: {a: b}
`

const folderService = `{"apiVersion":"v1","kind":"List","items":[
 {"apiVersion":"v1","kind":"Service","metadata":{"name":"web"},"spec":{"selector":{"app":"web"},"ports":[{"port":80,"targetPort":"http"}]}},
 {"apiVersion":"v1","kind":"Secret","metadata":{"name":"s","namespace":"other"},"stringData":{"k":"v"}},
 {"apiVersion":"v1","kind":"Namespace","metadata":{"name":"other"},"spec":{"finalizers":["kubernetes"]},"status":{"phase":"Active"}}]}`

func TestAFolderOfManifestsIsRead(t *testing.T) {
	dir := write(t, "b.yml", folderPod, "a.json", folderService, "readme.md", "# no", ".hidden.yaml", ":")
	m, err := Load([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Pods) != 1 || len(m.ConfigMaps) != 1 || len(m.Services) != 1 || len(m.Secrets) != 1 || len(m.Namespaces) != 1 {
		t.Fatalf("got %+v", m)
	}
	if s := m.Secrets[0]; string(s.Data["k"]) != "v" || s.StringData != nil || s.Type != corev1.SecretTypeOpaque || s.Namespace != "other" {
		t.Errorf("secret %+v", s)
	}
}

func TestPodsGetTheAPIServersDefaults(t *testing.T) {
	pod := parse(t, folderPod).Pods[0]
	spec, c := pod.Spec, pod.Spec.Containers[0]
	for what, ok := range map[string]bool{
		"namespace":          pod.Namespace == "default",
		"restartPolicy":      spec.RestartPolicy == corev1.RestartPolicyAlways,
		"dnsPolicy":          spec.DNSPolicy == corev1.DNSClusterFirst,
		"grace period":       *spec.TerminationGracePeriodSeconds == 30,
		"service links":      *spec.EnableServiceLinks,
		"service account":    spec.ServiceAccountName == "default" && spec.DeprecatedServiceAccount == "default",
		"security context":   spec.SecurityContext != nil,
		"volume modes":       *spec.Volumes[0].ConfigMap.DefaultMode == 0o644,
		"emptyDir":           spec.Volumes[1].EmptyDir != nil,
		"pull policy":        c.ImagePullPolicy == corev1.PullIfNotPresent,
		"message":            c.TerminationMessagePath == "/dev/termination-log" && c.TerminationMessagePolicy == "File",
		"port protocol":      c.Ports[0].Protocol == corev1.ProtocolTCP,
		"field version":      c.Env[0].ValueFrom.FieldRef.APIVersion == "v1",
		"request of limit":   c.Resources.Requests.Memory().String() == "64Mi",
		"quantity rounded":   c.Resources.Limits.Cpu().String() == "2m",
		"no request of pids": len(c.Resources.Requests) == 2,
		"probe": c.ReadinessProbe.PeriodSeconds == 10 && c.ReadinessProbe.TimeoutSeconds == 1 && c.ReadinessProbe.FailureThreshold == 3 &&
			c.ReadinessProbe.SuccessThreshold == 1 && c.ReadinessProbe.HTTPGet.Path == "/" && c.ReadinessProbe.HTTPGet.Scheme == "HTTP",
	} {
		if !ok {
			t.Errorf("%s: %+v", what, spec)
		}
	}
}

func TestImagesWithoutATagArePulledAlways(t *testing.T) {
	for image, want := range map[string]corev1.PullPolicy{
		"nginx": "Always", "nginx:latest": "Always", "reg:5000/nginx": "Always", "nginx:1": "IfNotPresent", "reg:5000/nginx:1": "IfNotPresent",
		"nginx@sha256:" + strings.Repeat("a", 64): "IfNotPresent", "oci:/layout": "IfNotPresent", "rootfs:/a": "IfNotPresent",
	} {
		pod := &corev1.Pod{}
		pod.Spec.Containers = []corev1.Container{{Image: image}}
		SetPodDefaults(pod)
		if got := pod.Spec.Containers[0].ImagePullPolicy; got != want {
			t.Errorf("%s: %s, want %s", image, got, want)
		}
	}
}

// A pod as kubectl shows it on a real cluster.
const clusterPod = `
apiVersion: v1
kind: Pod
metadata:
  creationTimestamp: "2026-01-01T00:00:00Z"
  generation: 1
  labels: {app: web}
  managedFields: [{manager: kubectl, operation: Update, apiVersion: v1}]
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: web-1, uid: u}]
  name: web
  namespace: default
  resourceVersion: "12"
  uid: 5dd2a1ce-0ca6-4b33-ba85-5ba41c27e5d8
spec:
  containers:
  - image: host:bash
    imagePullPolicy: Always
    name: main
    resources: {}
    terminationMessagePath: /dev/termination-log
    terminationMessagePolicy: File
    volumeMounts:
    - {mountPath: /var/run/secrets/kubernetes.io/serviceaccount, name: kube-api-access-x, readOnly: true}
  dnsPolicy: ClusterFirst
  enableServiceLinks: true
  nodeName: node
  preemptionPolicy: PreemptLowerPriority
  priority: 0
  restartPolicy: Always
  schedulerName: default-scheduler
  securityContext: {}
  serviceAccount: default
  serviceAccountName: default
  terminationGracePeriodSeconds: 30
  tolerations:
  - {effect: NoExecute, key: node.kubernetes.io/not-ready, operator: Exists, tolerationSeconds: 300}
  volumes:
  - name: kube-api-access-x
    projected:
      defaultMode: 420
      sources:
      - serviceAccountToken: {expirationSeconds: 3607, path: token}
      - configMap: {items: [{key: ca.crt, path: ca.crt}], name: kube-root-ca.crt}
      - downwardAPI: {items: [{fieldRef: {apiVersion: v1, fieldPath: metadata.namespace}, path: namespace}]}
status:
  phase: Running
  podIP: 10.244.0.9
`

func TestAPodAsAClusterShowsItIsTaken(t *testing.T) {
	pod := parse(t, clusterPod).Pods[0]
	if pod.UID != "" || pod.Status.Phase != "" || pod.ManagedFields != nil || pod.OwnerReferences != nil || !pod.CreationTimestamp.IsZero() {
		t.Errorf("the server's own fields are kept: %+v", pod.ObjectMeta)
	}
	if pod.Spec.Volumes != nil || pod.Spec.Containers[0].VolumeMounts != nil {
		t.Errorf("the volume that admission added is kept: %+v", pod.Spec)
	}
	_, err := Parse("x", []byte(strings.Replace(clusterPod, "mountPath: /var/run", "mountPath: /run", 1)))
	wantError(t, err, "spec.containers[0].volumeMounts[0].mountPath")
}

func TestWhatIsReadIsWrittenAndReadUnchanged(t *testing.T) {
	first := parse(t, folderPod+"\n---\n"+clusterPod[strings.Index(clusterPod, "apiVersion"):strings.Index(clusterPod, "  name: web")]+"  name: two\n"+clusterPod[strings.Index(clusterPod, "  namespace: default"):])
	text, err := first.YAML()
	if err != nil {
		t.Fatal(err)
	}
	if again := parse(t, string(text)); !equality.Semantic.DeepEqual(first, again) {
		t.Errorf("got %+v\nwant %+v", again, first)
	}
}

func TestErrorsNameFileDocumentObjectAndField(t *testing.T) {
	bad := "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: Main, image: x}], hostNetwork: true}\n---\n" +
		"apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 80, targetport: 1}]}\n---\n" +
		"apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\n---\n" +
		"apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: b, a: c}\n---\n" +
		"apiVersion: v1\nkind: Service\nmetadata: {name: h}\nspec: {clusterIP: None, ports: [{port: 0}]}\n---\n" +
		"apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {ports: [{port: 80}]}\n"
	path := filepath.Join(write(t, "bad.yaml", bad), "bad.yaml")
	_, err := Load([]string{path})
	wantError(t, err,
		path+", document 1: Pod default/p: spec.hostNetwork",
		path+", document 2: Service default/s: ", `unknown field "spec.ports[0].targetport"`,
		path+", document 3: Deployment default/d: kind", "Deployment",
		path+", document 4", `"a" already set`,
		path+", document 5: Service default/h: spec.ports[0].port",
		path+", document 6: Service default/s: is also in "+path+", document 2")
	_, err = Load([]string{filepath.Join(t.TempDir(), "none.yaml")})
	wantError(t, err, "none.yaml")
	_, err = Load([]string{t.TempDir()})
	wantError(t, err, "no .yaml")
}

func TestSlicesOfAClustersControllerAreLeftOut(t *testing.T) {
	const text = `{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4,
metadata: {name: a, labels: {kubernetes.io/service-name: web%s}}, ports: [{port: 80}], endpoints: [{addresses: [10.0.0.1]}]}`
	if m := parse(t, strings.Replace(text, "%s", "", 1)); len(m.EndpointSlices) != 1 {
		t.Errorf("got %+v", m)
	}
	if m := parse(t, strings.Replace(text, "%s", ", endpointslice.kubernetes.io/managed-by: endpointslice-controller.k8s.io", 1)); len(m.EndpointSlices) != 0 {
		t.Errorf("got %+v", m)
	}
}

func TestNamesAreTheAPIs(t *testing.T) {
	for _, bad := range []string{
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: a_b}}",
		"{apiVersion: v1, kind: ConfigMap, metadata: {name: a}, data: {'a/b': x}}",
		"{apiVersion: v1, kind: Secret, metadata: {name: a, namespace: 'a.b'}}",
		"{apiVersion: v1, kind: Namespace, metadata: {name: 'a.b'}}",
		"{apiVersion: v1, kind: Service, metadata: {name: 1a}, spec: {ports: [{port: 1}]}}",
		"{apiVersion: v1, kind: Service, metadata: {name: a, labels: {'?': b}}, spec: {ports: [{port: 1}]}}",
		"{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: ExternalName, externalName: '-'}}",
		"{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: NodePort, clusterIP: None, ports: [{port: 1}]}}",
		"{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {ipFamilies: [IPv5], ports: [{port: 1}]}}",
		"{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, metadata: {name: a}}",
	} {
		if _, err := Parse("x", []byte(bad)); err == nil {
			t.Errorf("accepted: %s", bad)
		}
	}
}

func TestWantedAddresses(t *testing.T) {
	pod := simplePod("a", nil)
	pod.Annotations = map[string]string{AnnotationPodIPs: "10.244.0.9, fd00:10:244::9"}
	if got, err := WantedPodIPs(pod); err != nil || len(got) != 2 || got[0] != addrs("10.244.0.9")[0] {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "x", "10.0.0.1,10.0.0.2", "::ffff:1.2.3.4", "fe80::1%eth0"} {
		pod.Annotations[AnnotationPodIPs] = bad
		wantError(t, ValidatePod(pod), "metadata.annotations["+AnnotationPodIPs+"]")
	}
}
