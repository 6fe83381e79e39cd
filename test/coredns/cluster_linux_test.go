package coredns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"svcproxy/kubelet"
	"svcproxy/proxier/local"
	"svcproxy/sandbox"
	"svcproxy/sandbox/cgroup"
	"svcproxy/sandbox/image"
	"svcproxy/test/controlplane"
	"svcproxy/test/nstest"
)

// cluster is a control-plane node and a worker on one network, as kind has them. The worker runs a kubelet and svcproxy.
type cluster struct {
	testing.TB
	*controlplane.ControlPlane
	worker    *sandbox.Node
	kubelet   *kubelet.Kubelet
	proxy     *controlplane.Process
	addresses *local.Allocator

	changed chan struct{} // tells the controllers to look again
}

var (
	kubeDNS  = []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::a")}
	upstream = []netip.Addr{netip.MustParseAddr("172.18.0.53"), netip.MustParseAddr("fc00:f853:ccd:e793::53")}
)

// newCluster makes one without pods.
func newCluster(t *testing.T, mode string) *cluster {
	t.Helper()
	network, err := sandbox.NewNetwork(sandbox.DefaultRouters())
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{TB: t, changed: make(chan struct{}, 1)}
	c.closeAfter(network.Close)
	master := c.newNode(network, "control-plane", "172.18.0.2", "fc00:f853:ccd:e793::2")
	c.worker = c.newNode(network, "worker", "172.18.0.3", "fc00:f853:ccd:e793::3")
	c.ControlPlane = controlplane.StartControlPlane(t, master.Netns, master.Addrs[0])
	if c.addresses, err = local.NewAllocator(local.DefaultRanges(true)); err != nil {
		t.Fatal(err)
	}
	c.createNode()
	c.serveUpstream(network)
	c.startKubelet()
	c.startControllers()
	c.proxy = controlplane.Start(t, c.worker.Netns, controlplane.Program("svcproxy"), "run",
		"--kubeconfig", c.Kubeconfig, "--hostname-override", c.worker.Name, "--proxy-mode", mode)
	return c
}

func (c *cluster) newNode(network *sandbox.Network, name string, addrs ...string) *sandbox.Node {
	c.Helper()
	cfg := sandbox.NodeConfig{Name: name, Network: network}
	for _, a := range addrs {
		cfg.Addrs = append(cfg.Addrs, netip.MustParseAddr(a))
	}
	node, err := sandbox.NewNode(cfg)
	c.must(err)
	c.closeAfter(node.Close)
	return node
}

func (c *cluster) must(err error) {
	c.Helper()
	if err != nil {
		c.Fatal(err)
	}
}

func (c *cluster) closeAfter(end func() error) {
	c.Cleanup(func() {
		if err := end(); err != nil {
			c.Error(err)
		}
	})
}

// startKubelet starts the worker's. Where the machine gives no cgroups, pods run without their limits.
func (c *cluster) startKubelet() {
	c.Helper()
	cfg := kubelet.Config{
		Node: c.worker, Dir: c.TempDir(), IgnoreLimits: true,
		DNS:     kubelet.DNS{Servers: kubeDNS, NodeServers: upstream[:1]},
		Changed: func(*corev1.Pod) { c.tellControllers() },
	}
	if allUsers(c) {
		cfg.Users = sandbox.UserRange{Base: 2147418112, Size: 65536}
		var err error
		cfg.Cgroups, err = cgroup.Open(fmt.Sprintf("svcproxy-coredns-test-%d-%d", os.Getpid(), time.Now().UnixNano()))
		c.must(err)
		cfg.IgnoreLimits = false
		c.closeAfter(cfg.Cgroups.Close)
	}
	images, err := image.Open(image.Options{Dir: c.TempDir(), UIDBase: cfg.Users.Base})
	c.must(err)
	cfg.Images = images
	c.kubelet, err = kubelet.New(cfg)
	c.must(err)
	c.closeAfter(c.kubelet.Close)
	c.Cleanup(func() {
		if c.Failed() {
			c.Log(c.describePods())
		}
	})
}

// allUsers tells whether this is the machine's root, not one of a user namespace.
func allUsers(t testing.TB) bool {
	t.Helper()
	ranges, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	var first, outside, size uint64
	if _, err := fmt.Sscan(string(ranges), &first, &outside, &size); err != nil {
		t.Fatal(err)
	}
	return size == 1<<32-1
}

func (c *cluster) createNode() {
	c.Helper()
	nodes := c.Client.CoreV1().Nodes()
	node, err := nodes.Create(c.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: c.worker.Name}}, metav1.CreateOptions{})
	c.must(err)
	for _, a := range c.worker.Addrs {
		node.Status.Addresses = append(node.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	_, err = nodes.UpdateStatus(c.Context(), node, metav1.UpdateOptions{})
	c.must(err)
}

// apply creates the objects of a manifest in the API server, and runs the pods. A pod is made once for each of the
// names given for it.
func (c *cluster) apply(file string, replicas map[string][]string) {
	c.Helper()
	m, err := local.Load([]string{filepath.Join("testdata", file)})
	c.must(err)
	for _, o := range m.ConfigMaps {
		_, err := c.Client.CoreV1().ConfigMaps(o.Namespace).Create(c.Context(), o, metav1.CreateOptions{})
		c.must(err)
	}
	for _, o := range m.Services {
		_, err := c.Client.CoreV1().Services(o.Namespace).Create(c.Context(), o, metav1.CreateOptions{})
		c.must(err)

	}
	c.giveFiles()
	for _, pod := range m.Pods {
		names := replicas[pod.Name]
		if names == nil {
			names = []string{pod.Name}
		}
		for _, name := range names {
			one := pod.DeepCopy()
			one.Name = name
			c.run(one)
		}
	}
}

// giveFiles gives the kubelet what pods may name, as its informers would.
func (c *cluster) giveFiles() {
	c.Helper()
	maps, err := c.Client.CoreV1().ConfigMaps("").List(c.Context(), metav1.ListOptions{})
	c.must(err)
	secrets, err := c.Client.CoreV1().Secrets("").List(c.Context(), metav1.ListOptions{})
	c.must(err)
	services, err := c.Client.CoreV1().Services("").List(c.Context(), metav1.ListOptions{})
	c.must(err)
	c.kubelet.SetFiles(pointers(maps.Items), pointers(secrets.Items), pointers(services.Items))
}

func pointers[T any](list []T) []*T {
	out := make([]*T, len(list))
	for i := range list {
		out[i] = &list[i]
	}
	return out
}

// run schedules a pod to the worker.
func (c *cluster) run(pod *corev1.Pod) {
	c.Helper()
	pod.Spec.NodeName = c.worker.Name
	for i := range pod.Spec.Containers {
		if built := &pod.Spec.Containers[i]; built.Image == "host:coredns" {
			program, err := filepath.Abs(controlplane.Program("coredns"))
			c.must(err)
			built.Image = "host:" + program
		}
	}
	pod, err := c.Client.CoreV1().Pods(pod.Namespace).Create(c.Context(), pod, metav1.CreateOptions{})
	c.must(err)
	addrs, err := c.addresses.Pod(nameOf(pod), nil)
	c.must(err)
	for _, a := range addrs {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: a.String()})
	}
	pod.Status.PodIP = pod.Status.PodIPs[0].IP
	c.must(c.kubelet.Apply(pod))
}

func nameOf(pod *corev1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
}

// remove deletes a pod as kubectl does, and returns when nothing of it is left.
func (c *cluster) remove(ctx context.Context, name types.NamespacedName) error {
	pods, now := c.Client.CoreV1().Pods(name.Namespace), int64(0)
	return errors.Join(
		pods.Delete(ctx, name.Name, metav1.DeleteOptions{}),
		c.kubelet.Delete(ctx, name),
		pods.Delete(ctx, name.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}))
}

// awaitReady waits until pods are ready, by the API server.
func (c *cluster) awaitReady(names ...types.NamespacedName) {
	c.Helper()
	for _, name := range names {
		controlplane.Await(c, 90*time.Second, func() error {
			pod, err := c.Client.CoreV1().Pods(name.Namespace).Get(c.Context(), name.Name, metav1.GetOptions{})
			if err == nil && !local.PodReady(pod) {
				err = fmt.Errorf("pod %s is not ready: %s", name, pod.Status.String())
			}
			return err
		}, c.proxy)
	}
}

// addrs are a pod's addresses.
func (c *cluster) addrs(name types.NamespacedName) []netip.Addr {
	c.Helper()
	addrs, err := c.addresses.Pod(name, nil)
	c.must(err)
	return addrs
}

// awaitAPI waits for what the API server makes shortly after it says that it is ready: the namespace, the right
// to allocate from the Service CIDRs, and the Service for itself.
func (c *cluster) awaitAPI() {
	c.Helper()
	nstest.Eventually(c, 30*time.Second, func() error {
		_, err := c.Client.CoreV1().Namespaces().Get(c.Context(), "kube-system", metav1.GetOptions{})
		if err == nil {
			_, err = c.Client.CoreV1().Services("default").Get(c.Context(), "kubernetes", metav1.GetOptions{})
		}
		if err == nil {
			_, err = c.Client.SchedulingV1().PriorityClasses().Get(c.Context(), "system-cluster-critical", metav1.GetOptions{})
		}
		return err
	})
}
