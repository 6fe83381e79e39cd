package clusterdns

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"sync"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"svcproxy/model"
)

// gather is how long changes are collected, so that many at once make one zone.
const gather = 20 * time.Millisecond

// API is the objects of an API server.
type API struct {
	client kubernetes.Interface
	// pods says that pods are watched, which only dns.PodsVerified needs.
	pods bool
	log  *zap.Logger
}

// NewAPI returns a source of the API server that config leads to. It watches Services, EndpointSlices and Namespaces, and
// pods if they are wanted.
func NewAPI(config *rest.Config, pods bool, log *zap.Logger) (*API, error) {
	config = rest.CopyConfig(config)
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("API client for %s: %w", config.Host, err)
	}
	return &API{client: client, pods: pods, log: log}, nil
}

// pending are changes that are not given yet.
type pending struct {
	mu      sync.Mutex
	changes Changes
	wake    chan struct{}
}

func (p *pending) put(f func(*Changes)) {
	p.mu.Lock()
	f(&p.changes)
	p.mu.Unlock()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

func (p *pending) take() Changes {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := p.changes
	p.changes = NewChanges()
	return taken
}

// Run watches until ctx ends. Losing the API server is not an error: what was known stays, and the watches retry.
func (a *API) Run(ctx context.Context, changed func(Changes)) error {
	p := &pending{changes: NewChanges(), wake: make(chan struct{}, 1)}
	factory := informers.NewSharedInformerFactoryWithOptions(a.client, 0, informers.WithTransform(lean))
	watched := []cache.SharedIndexInformer{
		factory.Core().V1().Services().Informer(),
		factory.Discovery().V1().EndpointSlices().Informer(),
		factory.Core().V1().Namespaces().Informer(),
	}
	if a.pods {
		watched = append(watched, factory.Core().V1().Pods().Informer())
	}
	var synced []cache.InformerSynced
	for _, informer := range watched {
		registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { p.put(func(c *Changes) { c.take(o, true) }) },
			UpdateFunc: func(_, o any) { p.put(func(c *Changes) { c.take(o, true) }) },
			DeleteFunc: func(o any) {
				if unknown, is := o.(cache.DeletedFinalStateUnknown); is {
					o = unknown.Obj
				}
				p.put(func(c *Changes) { c.take(o, false) })
			},
		})
		if err != nil {
			return fmt.Errorf("watching the API server: %w", err)
		}
		synced = append(synced, registration.HasSynced)
	}
	factory.StartWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), synced...) {
		return ctx.Err()
	}
	changed(p.take())
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-p.wake:
		}
		timer := time.NewTimer(gather)
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
		changed(p.take())
	}
}

// take notes an object's state.
func (c *Changes) take(object any, there bool) {
	switch o := object.(type) {
	case *corev1.Service:
		put(c.Services, model.ServiceName{Namespace: o.Namespace, Name: o.Name}, o, there)
	case *discoveryv1.EndpointSlice:
		put(c.Slices, model.SliceName{Namespace: o.Namespace, Name: o.Name}, o, there)
	case *corev1.Namespace:
		c.Namespaces[o.Name] = there
	case *corev1.Pod:
		var addrs []netip.Addr
		if there && o.Status.Phase != corev1.PodSucceeded && o.Status.Phase != corev1.PodFailed {
			for _, ip := range o.Status.PodIPs {
				if addr, err := netip.ParseAddr(ip.IP); err == nil {
					addrs = append(addrs, addr)
				}
			}
		}
		c.Pods[model.ServiceName{Namespace: o.Namespace, Name: o.Name}] = addrs
	}
}

func put[K comparable, V any](all map[K]*V, name K, v *V, there bool) {
	if !there {
		v = nil
	}
	all[name] = v
}

// lean drops of objects what DNS does not look at, so that they cost less memory.
func lean(object any) (any, error) {
	switch o := object.(type) {
	case *corev1.Service:
		o.ManagedFields, o.Annotations = nil, nil
	case *discoveryv1.EndpointSlice:
		o.ManagedFields, o.Annotations = nil, nil
		labels := maps.Clone(o.Labels)
		maps.DeleteFunc(labels, func(name, _ string) bool { return name != discoveryv1.LabelServiceName })
		o.Labels = labels
	case *corev1.Namespace:
		o.ManagedFields, o.Annotations, o.Labels = nil, nil, nil
	case *corev1.Pod:
		o.ManagedFields, o.Annotations, o.Labels, o.Spec = nil, nil, nil, corev1.PodSpec{}
	}
	return object, nil
}
