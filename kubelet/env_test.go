package kubelet

import (
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
)

func TestExpansion(t *testing.T) {
	known := map[string]string{"A": "1", "EMPTY": "", "NEST": "$(A)"}
	for in, want := range map[string]string{
		"$(A)": "1", "x$(A)y$(A)": "x1y1", "$$(A)": "$(A)", "$$$(A)": "$1", "$$$$(A)": "$$(A)", "$(EMPTY)": "", "$(NONE)": "$(NONE)",
		"$(NEST)": "$(A)", "$A": "$A", "$": "$", "$$": "$", "a$": "a$", "$(": "$(", "$(A": "$(A", "$()": "$()", "$(A)$(": "1$(",
		"$ (A)": "$ (A)", "$((A))": "$((A))", "": "",
	} {
		got := expand(in, func(name string) (string, bool) { v, ok := known[name]; return v, ok })
		if got != want {
			t.Errorf("%q gives %q, want %q", in, got, want)
		}
	}
}

func named[T any](namespace, name string, objects map[types.NamespacedName]T, o T) map[types.NamespacedName]T {
	if objects == nil {
		objects = map[types.NamespacedName]T{}
	}
	objects[types.NamespacedName{Namespace: namespace, Name: name}] = o
	return objects
}

func aSource() *source {
	pod := aPod(func(p *v1.Pod) {
		p.UID = "u-i-d"
		p.Labels = map[string]string{"b": "2", "a": `q"1`}
		p.Spec.NodeName = "node"
		p.Spec.Containers[0].Resources = v1.ResourceRequirements{
			Limits:   v1.ResourceList{v1.ResourceMemory: resource.MustParse("64Mi")},
			Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m")},
		}
	})
	return &source{
		pod: pod, nodeName: "node", hostIPs: []string{"172.18.0.2"}, podIPs: []string{"10.244.0.2", "fd00::2"},
		capacity: v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("4Gi")},
		files: &files{
			configMaps: named("default", "conf", nil, &v1.ConfigMap{Data: map[string]string{"K": "v", "L": "w"}}),
			secrets:    named("default", "secret", nil, &v1.Secret{Data: map[string][]byte{"P": []byte("pass")}}),
		},
	}
}

func fieldRef(path string) *v1.EnvVarSource {
	return &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: path}}
}

func resourceRef(name, divisor string) *v1.EnvVarSource {
	return &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: name, Divisor: resource.MustParse(divisor)}}
}

func TestEnvironment(t *testing.T) {
	s := aSource()
	yes := true
	c := &s.pod.Spec.Containers[0]
	c.EnvFrom = []v1.EnvFromSource{
		{Prefix: "C_", ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}}},
		{SecretRef: &v1.SecretEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "secret"}}},
		{SecretRef: &v1.SecretEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "none"}, Optional: &yes}},
	}
	c.Env = []v1.EnvVar{
		{Name: "NAME", ValueFrom: fieldRef("metadata.name")}, {Name: "UID", ValueFrom: fieldRef("metadata.uid")},
		{Name: "IPS", ValueFrom: fieldRef("status.podIPs")}, {Name: "HOST", ValueFrom: fieldRef("status.hostIP")},
		{Name: "LABEL", ValueFrom: fieldRef("metadata.labels['b']")}, {Name: "SA", ValueFrom: fieldRef("spec.serviceAccountName")},
		{Name: "MEM", ValueFrom: resourceRef("limits.memory", "1Mi")}, {Name: "CPU", ValueFrom: resourceRef("limits.cpu", "1")},
		{Name: "REQ", ValueFrom: resourceRef("requests.cpu", "1m")}, {Name: "UP", ValueFrom: resourceRef("requests.cpu", "1")},
		{Name: "KEY", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "conf"}, Key: "K"}}},
		{Name: "OPT", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "secret"}, Key: "Q", Optional: &yes}}},
		{Name: "P", Value: "$(P)word"}, {Name: "LATE", Value: "$(LATER)"}, {Name: "LATER", Value: "$(KEY)-$(NAME)"},
	}
	got, err := s.environment(c)
	if err != nil {
		t.Fatal(err)
	}
	want := strings.Fields(`C_K=v C_L=w P=password NAME=web UID=u-i-d IPS=10.244.0.2,fd00::2 HOST=172.18.0.2 LABEL=2 SA=default MEM=64 CPU=2
		REQ=250 UP=1 KEY=v LATE=$(LATER) LATER=v-web`)
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestEnvironmentNamesWhatIsMissing(t *testing.T) {
	for want, e := range map[string]*v1.EnvVarSource{
		`env A: configmap "none" not found`:                               {ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "none"}, Key: "K"}},
		`env A: couldn't find key Q in secret secret`:                     {SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "secret"}, Key: "Q"}},
		`env A: fieldPath "spec.what" is not supported`:                   fieldRef("spec.what"),
		`env A: resourceFieldRef: resource "limits.gpu" is not supported`: resourceRef("limits.gpu", "1"),
	} {
		s := aSource()
		s.pod.Spec.Containers[0].Env = []v1.EnvVar{{Name: "A", ValueFrom: e}}
		if _, err := s.environment(&s.pod.Spec.Containers[0]); err == nil || err.Error() != want {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

func TestServiceLinks(t *testing.T) {
	s := aSource()
	service := func(namespace, name, ip string, ports ...v1.ServicePort) *v1.Service {
		out := &v1.Service{Spec: v1.ServiceSpec{ClusterIP: ip, Ports: ports}}
		out.Namespace, out.Name = namespace, name
		return out
	}
	s.files.services = []*v1.Service{
		service("default", "redis-master", "10.0.0.11", v1.ServicePort{Name: "r", Port: 6379, Protocol: v1.ProtocolTCP}),
		service("default", "headless", "None", v1.ServicePort{Port: 1}),
		service("other", "far", "10.0.0.12", v1.ServicePort{Port: 1}),
	}
	got, err := s.environment(&s.pod.Spec.Containers[0])
	if err != nil {
		t.Fatal(err)
	}
	// The example of Kubernetes' documentation.
	want := strings.Fields(`REDIS_MASTER_SERVICE_HOST=10.0.0.11 REDIS_MASTER_SERVICE_PORT=6379 REDIS_MASTER_SERVICE_PORT_R=6379
		REDIS_MASTER_PORT=tcp://10.0.0.11:6379 REDIS_MASTER_PORT_6379_TCP=tcp://10.0.0.11:6379 REDIS_MASTER_PORT_6379_TCP_PROTO=tcp
		REDIS_MASTER_PORT_6379_TCP_PORT=6379 REDIS_MASTER_PORT_6379_TCP_ADDR=10.0.0.11`)
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	no := false
	s.pod.Spec.EnableServiceLinks = &no
	if got, _ := s.environment(&s.pod.Spec.Containers[0]); len(got) != 0 {
		t.Errorf("without links: %q", got)
	}
}

func TestCommandAndArguments(t *testing.T) {
	img := &imageInfo{Entrypoint: []string{"entry"}, Cmd: []string{"cmd", "$(A)"}}
	for _, c := range []struct{ command, args, want []string }{
		{nil, nil, []string{"entry", "cmd", "$(A)"}},
		{nil, []string{"$(A)"}, []string{"entry", "1"}},
		{[]string{"own", "$(A)"}, nil, []string{"own", "1"}},
		{[]string{"own"}, []string{"$$(A)"}, []string{"own", "$(A)"}},
	} {
		if got := command(&v1.Container{Command: c.command, Args: c.args}, img, []string{"A=1"}); !slices.Equal(got, c.want) {
			t.Errorf("%q %q: %q, want %q", c.command, c.args, got, c.want)
		}
	}
	if img.Cmd[1] != "$(A)" {
		t.Error("the image was changed")
	}
}
