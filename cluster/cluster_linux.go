package cluster

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.uber.org/zap"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"svcproxy/kubelet"
	"svcproxy/proxier"
	"svcproxy/proxier/local"
	"svcproxy/sandbox"
	"svcproxy/sandbox/cgroup"
	"svcproxy/sandbox/image"
)

// The fixed parts of a cluster: those of kind and kubeadm, so that what one knows of these holds here.
const (
	// NodeName is the node's.
	NodeName = "node"
	// Domain is the cluster's.
	Domain = "cluster.local"
)

var (
	// DNSAddress is the ClusterIP that pods ask names of: that of kube-system/kube-dns.
	DNSAddress = netip.MustParseAddr("10.96.0.10")
	// outsideAddrs are those of the host outside, next to the node.
	outsideAddrs = []netip.Addr{netip.MustParseAddr("172.18.0.100"), netip.MustParseAddr("fc00:f853:ccd:e793::100")}
	nodeAddrs    = []netip.Addr{netip.MustParseAddr("172.18.0.2"), netip.MustParseAddr("fc00:f853:ccd:e793::2")}
	gateways     = []netip.Addr{netip.MustParseAddr("10.244.0.1"), netip.MustParseAddr("fd00:10:244::1")}
)

// Proxy programs the node.
type Proxy interface {
	// Run programs until ctx ends.
	Run(ctx context.Context) error
	// Applied returns when all that the source gave before is programmed.
	Applied(ctx context.Context) error
}

// ProxyFunc makes a proxy of a mode, for the network namespace at a path, which programs what the source says.
// It also tells which mode that became.
type ProxyFunc func(mode string, source proxier.Source, netns, node string, log *zap.Logger) (proxy Proxy, actual string, err error)

// Options are what a Cluster is made of.
type Options struct {
	Config
	// Dir is where images, volumes, logs and containers' writable layers are. The caller removes it. Pods' users
	// must be able to pass it and those above.
	Dir string
	Log *zap.Logger
	// Proxy makes the proxy, if Config asks for one.
	Proxy ProxyFunc
}

// Cluster is a node with pods, a host outside, and what a control plane does for them. It needs a program that
// sandbox.Isolate started. It is safe for concurrent use.
type Cluster struct {
	config  Config
	log     *zap.Logger
	node    *sandbox.Node
	outside *sandbox.Host
	objects *local.Cluster
	kubelet *kubelet.Kubelet
	cgroups *cgroup.Parent
	proxy   Proxy
	// mode is the proxy's.
	mode    string
	created time.Time
	failed  chan error
	closers []func() error

	// publishing is held while the kubelet is given files, so that the newest are the last.
	publishing sync.Mutex
	publisher  *publisher

	// applying is held by those who change what is wanted.
	applying sync.Mutex
	mu       sync.Mutex
	// changed is closed and replaced when a pod's status has changed.
	changed chan struct{}
}

// New makes a cluster without pods. The caller closes it.
func New(ctx context.Context, o Options) (_ *Cluster, err error) {
	c := &Cluster{config: o.Config, log: o.Log, created: time.Now(), failed: make(chan error, 1), changed: make(chan struct{})}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.Close())
		}
	}()
	if err := c.makeNode(); err != nil {
		return nil, err
	}
	c.publisher = newPublisher(c.giveFiles)
	if err := c.makeProxy(ctx, o); err != nil {
		return nil, err
	}
	return c, c.makeKubelet(o)
}

// families leaves out the addresses of families that the cluster does not have; the first is IPv4.
func (c *Cluster) families(addrs []netip.Addr) []netip.Addr {
	if c.config.IPv4Only || !sandbox.HasIPv6() {
		return addrs[:1]
	}
	return addrs
}

func (c *Cluster) makeNode() error {
	var err error
	ranges := local.DefaultRanges(len(c.families(nodeAddrs)) > 1)
	config := sandbox.NodeConfig{Name: NodeName, Addrs: c.families(nodeAddrs), Gateways: c.families(gateways), Masquerade: ranges.Pods}
	if c.node, err = sandbox.NewNode(config); err != nil {
		return err
	}
	c.closers = append(c.closers, c.node.Close)
	if c.outside, err = c.node.AddHost(sandbox.HostConfig{Name: "outside", Addrs: c.families(outsideAddrs)}); err != nil {
		return err
	}
	c.objects, err = local.New(local.Config{NodeName: NodeName, NodeAddrs: c.node.Addrs, Ranges: ranges})
	return err
}

// makeProxy starts the proxy and waits until it has programmed the cluster without Services.
func (c *Cluster) makeProxy(ctx context.Context, o Options) error {
	if c.config.Proxy == "" {
		return nil
	}
	if o.Proxy == nil {
		return errors.New("a proxy is wanted, but there is none in this program")
	}
	var err error
	if c.proxy, c.mode, err = o.Proxy(c.config.Proxy, c.objects, c.node.Path(), NodeName, c.log.Named("proxy")); err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := c.proxy.Run(running); err != nil {
			c.failed <- fmt.Errorf("proxy: %w", err)
		}
	}()
	c.closers = append(c.closers, func() error {
		stop()
		<-ended
		return nil
	})
	if err := c.programmed(ctx); err != nil {
		return fmt.Errorf("proxy: %w", err)
	}
	return nil
}

// programTimeout is how long the proxy may take to program a change before that is an error.
const programTimeout = 20 * time.Second

func (c *Cluster) makeKubelet(o Options) error {
	users, err := PodUsers()
	if err != nil {
		return err
	}
	if err := o.makeFolders(); err != nil {
		return err
	}
	images, err := image.Open(image.Options{Dir: filepath.Join(o.Dir, "images"), UIDBase: users.Base, Self: "/proc/self/exe", AllowFolders: o.AllowHostPaths})
	if err != nil {
		return err
	}
	if o.Cgroup != "" {
		if c.cgroups, err = cgroup.Open(o.Cgroup); err != nil {
			return fmt.Errorf("cgroup %s: %w", o.Cgroup, err)
		}
		c.closers = append(c.closers, c.cgroups.Close)
	}
	c.kubelet, err = kubelet.New(kubelet.Config{
		Node: c.node, Images: images, Cgroups: c.cgroups, Users: users, Dir: filepath.Join(o.Dir, "pods"), Log: c.log.Named("kubelet"),
		DNS:            kubelet.DNS{Servers: []netip.Addr{DNSAddress}, Domain: Domain},
		AllowHostPaths: o.AllowHostPaths,
		IgnoreLimits:   o.IgnoreLimits,
		Withdraw:       c.withdraw,
		Changed:        c.podChanged,
	})
	if err != nil {
		return err
	}
	c.closers = append(c.closers, c.publisher.Close, c.kubelet.Close)
	c.giveFiles()
	return nil
}

func (o *Options) makeFolders() error {
	for _, dir := range []string{"images", "pods"} {
		if err := os.MkdirAll(filepath.Join(o.Dir, dir), 0o711); err != nil {
			return err
		}
	}
	return nil
}

// Failed delivers the error by which the cluster can't go on, if there is one.
func (c *Cluster) Failed() <-chan error { return c.failed }

// Mode is the proxy mode in use, empty without a proxy.
func (c *Cluster) Mode() string { return c.mode }

// Node is the cluster's node, and Outside the host next to it.
func (c *Cluster) Node() *sandbox.Node { return c.node }

// Outside is the host next to the node.
func (c *Cluster) Outside() *sandbox.Host { return c.outside }

// Objects holds what there is; changes go through the Cluster's own methods.
func (c *Cluster) Objects() *local.Cluster { return c.objects }

// Close removes all of it.
func (c *Cluster) Close() error {
	var errs []error
	for i := len(c.closers) - 1; i >= 0; i-- {
		errs = append(errs, c.closers[i]())
	}
	c.closers = nil
	return errors.Join(errs...)
}

// podChanged takes a pod's status from the kubelet.
func (c *Cluster) podChanged(pod *v1.Pod) {
	if err := c.objects.SetPod(pod); err != nil {
		c.log.Debug("the status of a pod that is gone", zap.Error(err))
	}
	c.publisher.changed()
	c.mu.Lock()
	close(c.changed)
	c.changed = make(chan struct{})
	c.mu.Unlock()
}

// next is closed when a pod has changed.
func (c *Cluster) next() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// withdraw takes a pod out of the Services' endpoints, and returns when the proxy sends no new connection there.
func (c *Cluster) withdraw(ctx context.Context, pod *v1.Pod) error {
	pod = pod.DeepCopy()
	if pod.DeletionTimestamp == nil {
		setNotReady(pod)
	}
	if err := c.objects.SetPod(pod); err != nil {
		return err
	}
	return c.programmed(ctx)
}

// setNotReady says of a pod that is to be restarted that it takes no new connections.
func setNotReady(pod *v1.Pod) {
	for i := range pod.Status.Conditions {
		if t := &pod.Status.Conditions[i]; t.Type == v1.PodReady && t.Status == v1.ConditionTrue {
			t.Status, t.Reason, t.LastTransitionTime = v1.ConditionFalse, "Restarting", metav1.Now()
		}
	}
}

// programmed waits until the proxy has programmed what is known now.
func (c *Cluster) programmed(ctx context.Context) error {
	if c.proxy == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, programTimeout)
	defer cancel()
	err := c.proxy.Applied(ctx)
	if held := (*proxier.HeldBackError)(nil); errors.As(err, &held) {
		// Some Service can't be programmed whatever happens: that holds nobody else up.
		c.log.Warn("the proxy leaves out a Service", zap.Error(err))
		return nil
	}
	return err
}

func podName(r Ref) types.NamespacedName {
	return types.NamespacedName{Namespace: r.Namespace, Name: r.Name}
}
