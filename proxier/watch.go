package proxier

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"svcproxy/model"
)

// cidrRetry is how often an API server is asked whether it has ServiceCIDRs by now, as an upgrade brings.
const cidrRetry = time.Minute

// nodeWait is how long the Node is waited for once Services and slices are known: what is programmed depends
// on it, but to serve without it beats not to serve.
const nodeWait = 10 * time.Second

// APISource gives what an API server says.
type APISource struct {
	client   kubernetes.Interface
	nodeName string
	log      *zap.Logger
	notes    noteLog
	nodeWait time.Duration
}

// NewAPISource returns a source of the API server that config leads to. It talks protobuf. The Node of
// that name is watched; without a name, none.
func NewAPISource(config *rest.Config, nodeName string, log *zap.Logger) (*APISource, error) {
	config = rest.CopyConfig(config)
	config.ContentType = runtime.ContentTypeProtobuf
	config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return &reachLog{next: next, server: config.Host, log: log}
	})
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("API client for %s: %w", config.Host, err)
	}
	return NewClientSource(client, nodeName, log), nil
}

// NewClientSource returns a source of the API server that client talks to.
func NewClientSource(client kubernetes.Interface, nodeName string, log *zap.Logger) *APISource {
	return &APISource{client: client, nodeName: nodeName, log: log, notes: noteLog{log: log}, nodeWait: nodeWait}
}

// Run gives the API server's objects to the sink. Objects that can't be used are logged, and the last good
// version of them stays. It says Synced once Services and slices were listed, and ends with ctx; losing
// the API server is not an error: informers retry. It does not wait for the informers' end: one whose
// connections were refused sleeps for up to a minute before it looks at ctx.
func (s *APISource) Run(ctx context.Context, sink Sink) error {
	services := s.factory("!"+labelProxyName, fields.OneTermNotEqualSelector("spec.clusterIP", corev1.ClusterIPNone))
	slices := s.factory("!"+corev1.IsHeadlessService, fields.Everything())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	var synced []cache.InformerSynced
	for _, add := range []func() (cache.ResourceEventHandlerRegistration, error){
		func() (cache.ResourceEventHandlerRegistration, error) {
			return services.Core().V1().Services().Informer().AddEventHandler(handler(s.service(sink)))
		},
		func() (cache.ResourceEventHandlerRegistration, error) {
			return slices.Discovery().V1().EndpointSlices().Informer().AddEventHandler(handler(s.slice(sink)))
		},
	} {
		registration, err := add()
		if err != nil {
			return fmt.Errorf("watching the API server: %w", err)
		}
		synced = append(synced, registration.HasSynced)
	}
	nodeSynced := func() bool { return true }
	factories := []informers.SharedInformerFactory{services, slices}
	if s.nodeName != "" {
		nodes := s.factory("", fields.OneTermEqualSelector("metadata.name", s.nodeName))
		registration, err := nodes.Core().V1().Nodes().Informer().AddEventHandler(handler(s.node(sink)))
		if err != nil {
			return fmt.Errorf("watching Node %s: %w", s.nodeName, err)
		}
		nodeSynced = registration.HasSynced
		factories = append(factories, nodes)
	}
	for _, f := range factories {
		f.StartWithContext(ctx)
	}
	go s.serviceCIDRs(ctx, sink)
	s.log.Info("asking the API server for Services and EndpointSlices; nothing is changed before all are known")
	if cache.WaitForCacheSync(ctx.Done(), synced...) {
		s.waitForNode(ctx, nodeSynced)
		sink.Synced()
	}
	<-ctx.Done()
	return ctx.Err()
}

// waitForNode waits until it is known what the Node is like, or that there is none, though not for long.
func (s *APISource) waitForNode(ctx context.Context, synced cache.InformerSynced) {
	ctx, cancel := context.WithTimeout(ctx, s.nodeWait)
	defer cancel()
	if !cache.WaitForCacheSync(ctx.Done(), synced) && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		s.log.Warn("the Node can't be read; going on without what depends on it: zone, addresses and pod CIDRs", zap.String("node", s.nodeName))
	}
}

func (s *APISource) factory(labels string, f fields.Selector) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(s.client, 0,
		informers.WithTransform(trim),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.LabelSelector = labels
			if !f.Empty() {
				o.FieldSelector = f.String()
			}
		}))
}

// serviceCIDRs watches ServiceCIDRs as soon as the API server has them: before Kubernetes 1.33 it may not.
func (s *APISource) serviceCIDRs(ctx context.Context, sink Sink) {
	err := wait.PollUntilContextCancel(ctx, cidrRetry, true, func(ctx context.Context) (bool, error) {
		has, err := s.hasServiceCIDRs(ctx)
		if err != nil && ctx.Err() == nil {
			s.notes.once("ServiceCIDR", fmt.Sprintf("asking whether the API server has ServiceCIDRs: %v", err))
		} else if err == nil && !has {
			s.notes.once("ServiceCIDR", "the API server has no ServiceCIDRs, so their ranges are not known")
		}
		return has, nil
	})
	if err != nil {
		return
	}
	f := s.factory("", fields.Everything())
	if _, err := f.Networking().V1().ServiceCIDRs().Informer().AddEventHandler(handler(s.serviceCIDR(sink))); err != nil {
		s.log.Error("watching ServiceCIDRs", zap.Error(err))
		return
	}
	f.StartWithContext(ctx)
}

func (s *APISource) hasServiceCIDRs(ctx context.Context) (bool, error) {
	list, err := s.client.Discovery().ServerResourcesForGroupVersionWithContext(ctx, networkingv1.SchemeGroupVersion.String())
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, r := range list.APIResources {
		if r.Name == "servicecidrs" {
			return true, nil
		}
	}
	return false, nil
}

// handler calls set with each object as it is now, and remove with each that is gone.
func handler[T any](set, remove func(*T)) cache.ResourceEventHandler {
	call := func(f func(*T), obj any) {
		if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = last.Obj
		}
		if o, ok := obj.(*T); ok {
			f(o)
		}
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { call(set, obj) },
		UpdateFunc: func(_, obj any) { call(set, obj) },
		DeleteFunc: func(obj any) { call(remove, obj) },
	}
}

func (s *APISource) service(sink Sink) (set, remove func(*corev1.Service)) {
	update := func(o *corev1.Service, m *model.Service) {
		sink.Update(Objects{Services: map[model.ServiceName]*model.Service{{Namespace: o.Namespace, Name: o.Name}: m}})
	}
	set = func(o *corev1.Service) {
		m, notes, err := ConvertService(o)
		if s.notes.report(object("Service", o.Namespace, o.Name), m != nil, notes, err) {
			update(o, m)
		}
	}
	return set, func(o *corev1.Service) {
		s.notes.forget(object("Service", o.Namespace, o.Name))
		update(o, nil)
	}
}

func (s *APISource) slice(sink Sink) (set, remove func(*discoveryv1.EndpointSlice)) {
	update := func(o *discoveryv1.EndpointSlice, m *model.Slice) {
		sink.Update(Objects{Slices: map[model.SliceName]*model.Slice{{Namespace: o.Namespace, Name: o.Name}: m}})
	}
	set = func(o *discoveryv1.EndpointSlice) {
		m, notes, err := ConvertSlice(o)
		if s.notes.report(object("EndpointSlice", o.Namespace, o.Name), m != nil, notes, err) {
			update(o, m)
		}
	}
	return set, func(o *discoveryv1.EndpointSlice) {
		s.notes.forget(object("EndpointSlice", o.Namespace, o.Name))
		update(o, nil)
	}
}

// node gives the Node's states. Where it was deleted, the last one stays, since without a Node node ports might
// answer at more addresses than they did.
func (s *APISource) node(sink Sink) (set, remove func(*corev1.Node)) {
	update := func(o *corev1.Node, m *model.Node) {
		sink.Update(Objects{Nodes: map[string]*model.Node{o.Name: m}})
	}
	set = func(o *corev1.Node) {
		m, notes, err := ConvertNode(o)
		if s.notes.report(object("Node", "", o.Name), true, notes, err) {
			update(o, m)
		}
	}
	return set, func(o *corev1.Node) {
		s.notes.forget(object("Node", "", o.Name))
		s.log.Info("the Node was deleted; what is programmed stays by what it was", zap.String("node", o.Name))
	}
}

func (s *APISource) serviceCIDR(sink Sink) (set, remove func(*networkingv1.ServiceCIDR)) {
	update := func(o *networkingv1.ServiceCIDR, p []netip.Prefix) {
		sink.Update(Objects{ServiceCIDRs: map[string][]netip.Prefix{o.Name: p}})
	}
	set = func(o *networkingv1.ServiceCIDR) {
		p, err := ConvertServiceCIDR(o)
		if s.notes.report(object("ServiceCIDR", "", o.Name), true, nil, err) {
			update(o, p)
		}
	}
	return set, func(o *networkingv1.ServiceCIDR) { update(o, nil) }
}
