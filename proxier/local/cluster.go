package local

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"svcproxy/model"
	"svcproxy/proxier"
)

// Config describes the one node of a Cluster.
type Config struct {
	NodeName string
	// NodeAddrs are the node's own addresses, the primary family's first.
	NodeAddrs []netip.Addr
	Ranges    Ranges
	// Now tells the time that objects are made; nil is time.Now.
	Now func() time.Time
}

// Cluster holds the objects of a cluster with one node, as the API server does, and keeps EndpointSlices, as
// the EndpointSlice controller does. As a proxier.Source it gives them to proxies: a change has been given to
// every proxy's store when the method that makes it returns, so that Proxier.Applied waits for it. It is safe
// for concurrent use. Objects are copied on the way in and out.
type Cluster struct {
	config Config
	node   *corev1.Node

	mu         sync.Mutex
	allocator  *Allocator
	pods       map[types.NamespacedName]*corev1.Pod
	services   map[types.NamespacedName]*held
	configMaps map[types.NamespacedName]*corev1.ConfigMap
	secrets    map[types.NamespacedName]*corev1.Secret
	namespaces map[types.NamespacedName]*corev1.Namespace
	// slices are those that manifests brought.
	slices map[types.NamespacedName]*discoveryv1.EndpointSlice
	// selecting are the Services with a selector, by one label that it has.
	selecting map[labelKey]map[types.NamespacedName]bool
	// podsIn are the pods of a namespace.
	podsIn map[string]map[types.NamespacedName]*corev1.Pod

	sinks   map[int]proxier.Sink
	sinkIDs int
}

// labelKey is one label of objects in one namespace.
type labelKey struct{ namespace, key, value string }

// held is a Service, what proxies get of it, and its slices.
type held struct {
	service *corev1.Service
	model   *model.Service
	slices  map[string]*heldSlice
}

// heldSlice is a slice, and what proxies get of it.
type heldSlice struct {
	slice *discoveryv1.EndpointSlice
	model *model.Slice
}

// New returns a Cluster without objects but its node.
func New(c Config) (*Cluster, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	if wrong := subdomain(c.NodeName); len(wrong) > 0 {
		return nil, fmt.Errorf("node name %q: %s", c.NodeName, wrong[0])
	}
	allocator, err := NewAllocator(c.Ranges)
	if err != nil {
		return nil, err
	}
	return &Cluster{
		config: c, node: newNode(&c), allocator: allocator,
		pods:       map[types.NamespacedName]*corev1.Pod{},
		services:   map[types.NamespacedName]*held{},
		configMaps: map[types.NamespacedName]*corev1.ConfigMap{},
		secrets:    map[types.NamespacedName]*corev1.Secret{},
		namespaces: map[types.NamespacedName]*corev1.Namespace{},
		slices:     map[types.NamespacedName]*discoveryv1.EndpointSlice{},
		selecting:  map[labelKey]map[types.NamespacedName]bool{},
		podsIn:     map[string]map[types.NamespacedName]*corev1.Pod{},
		sinks:      map[int]proxier.Sink{},
	}, nil
}

func newNode(c *Config) *corev1.Node {
	n := &corev1.Node{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
		ObjectMeta: metav1.ObjectMeta{
			Name: c.NodeName, UID: uuid.NewUUID(), CreationTimestamp: metav1.NewTime(c.Now().Truncate(time.Second)),
			Labels: map[string]string{corev1.LabelHostname: c.NodeName, corev1.LabelOSStable: "linux"},
		},
	}
	for _, p := range c.Ranges.Pods {
		n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, p.Masked().String())
	}
	n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	for _, a := range c.NodeAddrs {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
	}
	n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeHostName, Address: c.NodeName})
	n.Status.Conditions = []corev1.NodeCondition{{
		Type: corev1.NodeReady, Status: corev1.ConditionTrue, Reason: "SandboxReady", LastTransitionTime: n.CreationTimestamp,
	}}
	return n
}

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// SetPod takes a pod as it is now, such as its conditions. It must be one that was applied, and not deleted
// since; its addresses are those that it was given. Services that select it follow before SetPod returns.
func (c *Cluster) SetPod(pod *corev1.Pod) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.pods[nameOf(pod)]
	if old == nil {
		return fmt.Errorf("%s is not known", proxier.ObjectName("Pod", pod.Namespace, pod.Name))
	}
	pod = pod.DeepCopy()
	pod.TypeMeta = old.TypeMeta
	pod.UID, pod.CreationTimestamp, pod.Spec.NodeName = old.UID, old.CreationTimestamp, old.Spec.NodeName
	pod.Status.PodIP, pod.Status.PodIPs = old.Status.PodIP, old.Status.PodIPs
	pod.Status.HostIP, pod.Status.HostIPs = old.Status.HostIP, old.Status.HostIPs
	if equality.Semantic.DeepEqual(pod, old) {
		return nil
	}
	touched, update := map[types.NamespacedName]bool{}, proxier.NewObjects()
	c.put(pod, touched)
	c.refresh(touched, update)
	c.send(update)
	return nil
}

// DeletePod forgets a pod and frees its addresses; one that is not known is no error. Services that select it
// follow before DeletePod returns.
func (c *Cluster) DeletePod(name types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.pods[name]
	if old == nil {
		return
	}
	touched, update := map[types.NamespacedName]bool{}, proxier.NewObjects()
	c.touch(old, touched)
	delete(c.pods, name)
	delete(c.podsIn[name.Namespace], name)
	c.allocator.FreePod(name)
	c.refresh(touched, update)
	c.send(update)
}

// DeleteService forgets a Service and its slices, and frees its addresses and node ports; one that is not known
// is no error. Slices that manifests brought stay.
func (c *Cluster) DeleteService(name types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	h := c.services[name]
	if h == nil {
		return
	}
	update := proxier.NewObjects()
	update.Services[model.ServiceName(name)] = nil
	for slice := range h.slices {
		update.Slices[model.SliceName{Namespace: name.Namespace, Name: slice}] = nil
	}
	delete(c.services, name)
	c.unindex(h.service)
	c.allocator.FreeService(name)
	c.send(update)
}

// DeleteEndpointSlice forgets a slice that a manifest brought; one that is not known is no error.
func (c *Cluster) DeleteEndpointSlice(name types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.slices[name] == nil {
		return
	}
	delete(c.slices, name)
	update := proxier.NewObjects()
	update.Slices[model.SliceName(name)] = nil
	c.send(update)
}

// DeleteConfigMap forgets a ConfigMap; one that is not known is no error.
func (c *Cluster) DeleteConfigMap(name types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.configMaps, name)
}

// DeleteSecret forgets a Secret; one that is not known is no error.
func (c *Cluster) DeleteSecret(name types.NamespacedName) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.secrets, name)
}

// put holds a pod, and adds the Services that select it, now or before, to touched.
func (c *Cluster) put(pod *corev1.Pod, touched map[types.NamespacedName]bool) {
	name := nameOf(pod)
	if old := c.pods[name]; old != nil {
		c.touch(old, touched)
	}
	c.touch(pod, touched)
	c.pods[name] = pod
	if c.podsIn[pod.Namespace] == nil {
		c.podsIn[pod.Namespace] = map[types.NamespacedName]*corev1.Pod{}
	}
	c.podsIn[pod.Namespace][name] = pod
}

// touch adds the Services that select a pod.
func (c *Cluster) touch(pod *corev1.Pod, touched map[types.NamespacedName]bool) {
	for k, v := range pod.Labels {
		for name := range c.selecting[labelKey{pod.Namespace, k, v}] {
			if selector(c.services[name].service.Spec.Selector)(pod.Labels) {
				touched[name] = true
			}
		}
	}
}

// indexed is the label by which a Service is found: the first of its selector.
func indexed(s *corev1.Service) (labelKey, bool) {
	if len(s.Spec.Selector) == 0 {
		return labelKey{}, false
	}
	key := slices.MinFunc(slices.Collect(maps.Keys(s.Spec.Selector)), strings.Compare)
	return labelKey{s.Namespace, key, s.Spec.Selector[key]}, true
}

func (c *Cluster) index(s *corev1.Service) {
	if key, ok := indexed(s); ok {
		if c.selecting[key] == nil {
			c.selecting[key] = map[types.NamespacedName]bool{}
		}
		c.selecting[key][nameOf(s)] = true
	}
}

func (c *Cluster) unindex(s *corev1.Service) {
	if key, ok := indexed(s); ok {
		if delete(c.selecting[key], nameOf(s)); len(c.selecting[key]) == 0 {
			delete(c.selecting, key)
		}
	}
}

// refresh makes the slices of Services anew, and adds what is new to proxies to the update.
func (c *Cluster) refresh(touched map[types.NamespacedName]bool, update *proxier.Objects) {
	for name := range touched {
		h := c.services[name]
		pods := slices.Collect(maps.Values(c.podsIn[name.Namespace]))
		next := map[string]*heldSlice{}
		for _, s := range Slices(h.service, pods, c.config.NodeName) {
			old := h.slices[s.Name]
			if old != nil {
				c.identify(s, old.slice)
			} else {
				c.identify(s, nil)
			}
			if old != nil && equality.Semantic.DeepEqual(s, old.slice) {
				next[s.Name] = old
				continue
			}
			converted, _, err := proxier.ConvertSlice(s)
			if err != nil {
				converted = nil // all of it was checked before
			}
			next[s.Name] = &heldSlice{slice: s, model: converted}
			update.Slices[model.SliceName(nameOf(s))] = converted
		}
		for gone := range h.slices {
			if next[gone] == nil {
				update.Slices[model.SliceName{Namespace: name.Namespace, Name: gone}] = nil
			}
		}
		h.slices = next
	}
}
