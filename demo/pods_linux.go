package demo

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	"go.uber.org/zap"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	clusters "svcproxy/cluster"
	"svcproxy/kubelet"
	"svcproxy/proxier/local"
	"svcproxy/sandbox/image"
)

// startKubelet makes what runs the pods. What they are is this program's own file.
func (c *cluster) startKubelet() error {
	users, err := clusters.PodUsers()
	if err != nil {
		return err
	}
	place := filepath.Dir(c.dir)
	images, err := image.Open(image.Options{Dir: filepath.Join(place, "images"), UIDBase: users.Base, Self: self})
	if err != nil {
		return err
	}
	c.kubelet, err = kubelet.New(kubelet.Config{
		Node: c.node, Images: images, Users: users, Dir: filepath.Join(place, "pods"), Log: zap.NewNop(), AllowHostPaths: []string{c.dir},
	})
	if err != nil {
		return err
	}
	c.closers = append(c.closers, c.kubelet.Close)
	return nil
}

// pod is a pod of one container that runs this program.
func (p podSpec) pod(args ...string) *v1.Pod {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: p.namespace, Name: p.name},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "main", Image: "host:svcproxy", Command: append([]string{"svcproxy"}, args...)}}},
	}
	local.SetPodDefaults(pod)
	for _, a := range p.addrs {
		pod.Status.PodIPs = append(pod.Status.PodIPs, v1.PodIP{IP: a.String()})
	}
	pod.Status.PodIP = p.addrs[0].String()
	return pod
}

// dnsPod answers for the Services of the manifests, which it sees as a volume.
func (c *cluster) dnsPod(p podSpec) *v1.Pod {
	const place = "/etc/svcproxy"
	pod := p.pod("dns", "serve", "--manifests", place, "--reverse", "10.96.0.0/16")
	pod.Spec.Volumes = []v1.Volume{{Name: "objects", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: c.dir}}}}
	main := &pod.Spec.Containers[0]
	main.VolumeMounts = []v1.VolumeMount{{Name: "objects", MountPath: place, ReadOnly: true}}
	main.ReadinessProbe = readiness("/ready", 8181)
	local.SetPodDefaults(pod)
	return pod
}

// webPod answers every request with its name and with the addresses that it came to and from.
func webPod(p podSpec) *v1.Pod {
	pod := p.pod("sandbox", "echo", "--as", p.String())
	pod.Spec.Containers[0].ReadinessProbe = readiness("/", 8080)
	local.SetPodDefaults(pod)
	return pod
}

// clientPod only waits: what asks there is started there.
func clientPod(p podSpec) *v1.Pod { return p.pod("sandbox", "echo") }

func readiness(path string, port int) *v1.Probe {
	return &v1.Probe{
		ProbeHandler:  v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: path, Port: intstr.FromInt(port)}},
		PeriodSeconds: 1,
	}
}

// awaitPods waits until all pods are ready.
func (c *cluster) awaitPods(ctx context.Context) error {
	return until(ctx, 20*time.Second, func(context.Context) error {
		for _, pod := range c.kubelet.Pods() {
			if !local.PodReady(pod) {
				return fmt.Errorf("pod %s/%s is not ready: it is %s", pod.Namespace, pod.Name, pod.Status.Phase)
			}
		}
		return nil
	})
}

// kill ends a pod at once.
func (c *cluster) kill(ctx context.Context, p podSpec) error {
	return c.kubelet.DeleteWithin(ctx, types.NamespacedName{Namespace: p.namespace, Name: p.name}, 0)
}
