package local

import (
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"svcproxy/model"
	"svcproxy/proxier"
)

// Apply adds the objects, and replaces those of the same names, whose addresses, node ports, uids and status stay.
// It takes all or none. It returns them as they are held then, pods with their addresses in the status.
func (c *Cluster) Apply(m *Manifests) (*Manifests, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a := &applying{Cluster: c, allocator: c.allocator.clone()}
	services, err := a.newServices(m.Services)
	if err != nil {
		return nil, err
	}
	pods, err := a.newPods(m.Pods)
	if err != nil {
		return nil, err
	}
	slices, err := a.newSlices(m.EndpointSlices, services)
	if err != nil {
		return nil, err
	}
	c.allocator = a.allocator
	return c.commit(m, services, pods, slices), nil
}

// applying is one call of Apply until nothing can go wrong any more.
type applying struct {
	*Cluster
	allocator *Allocator
}

func (a *applying) newServices(given []*corev1.Service) ([]*held, error) {
	services := make([]*corev1.Service, len(given))
	var errs []error
	for i, s := range given {
		services[i] = s.DeepCopy()
		if err := a.allocator.Wanted(services[i]); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	var all []*held
	for _, s := range services {
		var old *corev1.Service
		if h := a.services[nameOf(s)]; h != nil {
			old = h.service
		}
		if err := a.allocator.Service(s, old); err != nil {
			errs = append(errs, err)
			continue
		}
		a.identify(s, old)
		converted, _, err := proxier.ConvertService(s)
		if err != nil {
			errs = append(errs, err)
		}
		all = append(all, &held{service: s, model: converted, slices: map[string]*heldSlice{}})
	}
	return all, errors.Join(errs...)
}

func (a *applying) newPods(given []*corev1.Pod) ([]*corev1.Pod, error) {
	var errs []error
	pods := make([]*corev1.Pod, len(given))
	wanted := make([][]netip.Addr, len(given))
	for i, pod := range given {
		pods[i] = pod.DeepCopy()
		var err error
		if wanted[i], err = WantedPodIPs(pod); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", proxier.ObjectName("Pod", pod.Namespace, pod.Name), err))
		}
		if pod.Spec.NodeName != "" && pod.Spec.NodeName != a.config.NodeName {
			errs = append(errs, fmt.Errorf("%s: spec.nodeName: %q is not the node, which is %s", proxier.ObjectName("Pod", pod.Namespace, pod.Name), pod.Spec.NodeName, a.config.NodeName))
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	// Those that want an address get theirs before anybody else may get it.
	for _, wants := range []bool{true, false} {
		for i, pod := range pods {
			if len(wanted[i]) > 0 == wants {
				if err := a.newPod(pod, wanted[i]); err != nil {
					errs = append(errs, err)
				}
			}
		}
	}
	return pods, errors.Join(errs...)
}

// newPod fills in what the API server, the scheduler and the network fill in.
func (a *applying) newPod(pod *corev1.Pod, wanted []netip.Addr) error {
	addrs, err := a.allocator.Pod(nameOf(pod), wanted)
	if err != nil {
		return err
	}
	old := a.pods[nameOf(pod)]
	a.identify(pod, old)
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending}
	if old != nil {
		pod.Status = *old.Status.DeepCopy()
		// One that is ending takes no new connections until SetPod says that it is not.
		pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = old.DeletionTimestamp.DeepCopy(), old.DeletionGracePeriodSeconds
	}
	pod.Spec.NodeName = a.config.NodeName
	pod.Status.PodIP, pod.Status.PodIPs = addrs[0].String(), nil
	for _, addr := range addrs {
		pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: addr.String()})
	}
	pod.Status.HostIP, pod.Status.HostIPs = "", nil
	for _, addr := range a.config.NodeAddrs {
		pod.Status.HostIPs = append(pod.Status.HostIPs, corev1.HostIP{IP: addr.String()})
		if pod.Status.HostIP == "" {
			pod.Status.HostIP = addr.String()
		}
	}
	return nil
}

// newSlices checks the slices of manifests: one of a Service with a selector would be made twice.
func (a *applying) newSlices(given []*discoveryv1.EndpointSlice, services []*held) ([]*heldSlice, error) {
	selects := map[types.NamespacedName]bool{}
	for name, h := range a.services {
		selects[name] = len(h.service.Spec.Selector) > 0
	}
	for _, h := range services {
		selects[nameOf(h.service)] = len(h.service.Spec.Selector) > 0
	}
	var errs []error
	var all []*heldSlice
	for _, s := range given {
		s = s.DeepCopy()
		name := proxier.ObjectName("EndpointSlice", s.Namespace, s.Name)
		service := types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
		if selects[service] {
			errs = append(errs, fmt.Errorf("%s: metadata.labels[%s]: Service %s has a selector, from which its slices are made",
				name, discoveryv1.LabelServiceName, service))
			continue
		}
		a.identify(s, a.slices[nameOf(s)])
		converted, _, err := proxier.ConvertSlice(s)
		if err != nil {
			errs = append(errs, err)
		}
		all = append(all, &heldSlice{slice: s, model: converted})
	}
	return all, errors.Join(errs...)
}

// commit takes what was found good, and tells the proxies.
func (c *Cluster) commit(m *Manifests, services []*held, pods []*corev1.Pod, manual []*heldSlice) *Manifests {
	update := proxier.NewObjects()
	touched := map[types.NamespacedName]bool{}
	taken := &Manifests{}
	for _, h := range services {
		name := nameOf(h.service)
		if old := c.services[name]; old != nil {
			h.slices = old.slices
			c.unindex(old.service)
		}
		c.services[name] = h
		c.index(h.service)
		touched[name] = true
		update.Services[model.ServiceName(name)] = h.model
		taken.Services = append(taken.Services, h.service.DeepCopy())
	}
	for _, h := range manual {
		c.slices[nameOf(h.slice)] = h.slice
		update.Slices[model.SliceName(nameOf(h.slice))] = h.model
		taken.EndpointSlices = append(taken.EndpointSlices, h.slice.DeepCopy())
	}
	for _, pod := range pods {
		c.put(pod, touched)
		taken.Pods = append(taken.Pods, pod.DeepCopy())
	}
	c.commitFiles(m, taken)
	c.refresh(touched, update)
	c.send(update)
	return taken
}

// commitFiles takes the objects that no proxy is interested in.
func (c *Cluster) commitFiles(m, taken *Manifests) {
	for _, o := range m.ConfigMaps {
		taken.ConfigMaps = append(taken.ConfigMaps, hold(c, c.configMaps, o))
	}
	for _, o := range m.Secrets {
		taken.Secrets = append(taken.Secrets, hold(c, c.secrets, o))
	}
	for _, o := range m.Namespaces {
		taken.Namespaces = append(taken.Namespaces, hold(c, c.namespaces, o))
	}
}

// copied is any API object.
type copied[T any] interface {
	metav1.Object
	comparable
	DeepCopy() T
}

// hold puts an object among its kind, and returns a copy of it as it is held.
func hold[T copied[T]](c *Cluster, all map[types.NamespacedName]T, o T) T {
	o = o.DeepCopy()
	c.identify(o, all[nameOf(o)])
	all[nameOf(o)] = o
	return o.DeepCopy()
}

// identify leaves an object the uid and the time of the one that it replaces, or gives it new ones.
func (c *Cluster) identify(o, old metav1.Object) {
	if old != nil && !reflect.ValueOf(old).IsNil() {
		o.SetUID(old.GetUID())
		o.SetCreationTimestamp(old.GetCreationTimestamp())
		return
	}
	o.SetUID(uuid.NewUUID())
	o.SetCreationTimestamp(metav1.NewTime(c.config.Now().Truncate(time.Second)))
}
