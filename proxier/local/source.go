package local

import (
	"context"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"svcproxy/model"
	"svcproxy/proxier"
)

// Run gives all objects to the sink, says Synced, and gives changes until ctx ends. Several can run.
func (c *Cluster) Run(ctx context.Context, sink proxier.Sink) error {
	c.mu.Lock()
	sink.Update(*c.all())
	sink.Synced()
	id := c.sinkIDs
	c.sinkIDs++
	c.sinks[id] = sink
	c.mu.Unlock()
	<-ctx.Done()
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sinks, id)
	return ctx.Err()
}

// all is everything, as proxies get it.
func (c *Cluster) all() *proxier.Objects {
	all := proxier.NewObjects()
	for name, h := range c.services {
		if h.model != nil {
			all.Services[model.ServiceName(name)] = h.model
		}
		for _, s := range h.slices {
			if s.model != nil {
				all.Slices[model.SliceName(nameOf(s.slice))] = s.model
			}
		}
	}
	for name, s := range c.slices {
		if converted, _, err := proxier.ConvertSlice(s); err == nil && converted != nil {
			all.Slices[model.SliceName(name)] = converted
		}
	}
	if node, _, err := proxier.ConvertNode(c.node); err == nil {
		all.Nodes[node.Name] = node
	}
	all.ServiceCIDRs["kubernetes"] = slices.Clone(c.config.Ranges.Services)
	return all
}

// send gives changes to all proxies, under the lock, so that they come in order.
func (c *Cluster) send(update *proxier.Objects) {
	if update.Empty() {
		return
	}
	for _, sink := range c.sinks {
		sink.Update(*update)
	}
}

// Pod returns a pod.
func (c *Cluster) Pod(name types.NamespacedName) (*corev1.Pod, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	pod := c.pods[name]
	return pod.DeepCopy(), pod != nil
}

// Pods returns all pods in order.
func (c *Cluster) Pods() []*corev1.Pod { return listed(c, c.pods) }

// ConfigMaps returns all ConfigMaps in order.
func (c *Cluster) ConfigMaps() []*corev1.ConfigMap { return listed(c, c.configMaps) }

// Secrets returns all Secrets in order.
func (c *Cluster) Secrets() []*corev1.Secret { return listed(c, c.secrets) }

// Service returns a Service.
func (c *Cluster) Service(name types.NamespacedName) (*corev1.Service, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.services[name]; h != nil {
		return h.service.DeepCopy(), true
	}
	return nil, false
}

// Services returns all Services in order.
func (c *Cluster) Services() []*corev1.Service {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*corev1.Service
	for _, h := range c.services {
		all = append(all, h.service.DeepCopy())
	}
	return sortByName(all)
}

// EndpointSlices returns all slices in order: those made from selectors, and those of manifests.
func (c *Cluster) EndpointSlices() []*discoveryv1.EndpointSlice {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []*discoveryv1.EndpointSlice
	for _, h := range c.services {
		for _, s := range h.slices {
			all = append(all, s.slice.DeepCopy())
		}
	}
	for _, s := range c.slices {
		all = append(all, s.DeepCopy())
	}
	return sortByName(all)
}

// Node returns the node's object.
func (c *Cluster) Node() *corev1.Node { return c.node.DeepCopy() }

// PodAddrs returns the addresses of a pod, the primary one first; none for a pod that is not known.
func (c *Cluster) PodAddrs(name types.NamespacedName) []netip.Addr {
	pod, known := c.Pod(name)
	if !known {
		return nil
	}
	var addrs []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		addrs = append(addrs, netip.MustParseAddr(ip.IP))
	}
	return addrs
}

// Objects is everything that a Cluster holds.
type Objects struct {
	Manifests
	Node *corev1.Node
}

// Objects returns everything, in order. While others change the cluster, objects of different kinds may be of
// different times.
func (c *Cluster) Objects() *Objects {
	o := &Objects{Node: c.Node()}
	o.Pods, o.Services, o.ConfigMaps, o.Secrets, o.EndpointSlices = c.Pods(), c.Services(), c.ConfigMaps(), c.Secrets(), c.EndpointSlices()
	o.Namespaces = listed(c, c.namespaces)
	return o
}

// NetworkYAML writes what a proxy or a DNS server has to know as manifests, which proxier.LoadManifests and
// DNS servers read: the node, Services and EndpointSlices. No ConfigMap and no Secret is in it.
func (o *Objects) NetworkYAML() ([]byte, error) {
	all := []metav1.Object{o.Node}
	for _, s := range o.Services {
		all = append(all, s)
	}
	for _, s := range o.EndpointSlices {
		all = append(all, s)
	}
	return writeYAML(all)
}

// YAML writes all objects as manifests, the node first.
func (o *Objects) YAML() ([]byte, error) {
	return writeYAML(append([]metav1.Object{o.Node}, o.Manifests.Objects()...))
}

// listed copies all objects of a kind, in order.
func listed[T copied[T]](c *Cluster, held map[types.NamespacedName]T) []T {
	c.mu.Lock()
	defer c.mu.Unlock()
	var all []T
	for _, o := range held {
		all = append(all, o.DeepCopy())
	}
	return sortByName(all)
}
