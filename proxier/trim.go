package proxier

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
)

// trim drops from an object what conversion does not read, before an informer stores it: with 100,000
// endpoints the rest is most of the memory.
func trim(obj any) (any, error) {
	switch o := obj.(type) {
	case *corev1.Service:
		ranges, limited := o.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
		trimMeta(&o.ObjectMeta, labelProxyName, corev1.IsHeadlessService)
		if limited {
			o.Annotations = map[string]string{corev1.AnnotationLoadBalancerSourceRangesKey: ranges}
		}
		o.Spec.Selector = nil
		o.Status.Conditions = nil
	case *discoveryv1.EndpointSlice:
		trimMeta(&o.ObjectMeta, discoveryv1.LabelServiceName)
		for i := range o.Endpoints {
			e := &o.Endpoints[i]
			*e = discoveryv1.Endpoint{Addresses: e.Addresses[:min(1, len(e.Addresses))], Conditions: e.Conditions, NodeName: e.NodeName, Hints: e.Hints}
		}
	case *corev1.Node:
		trimMeta(&o.ObjectMeta, corev1.LabelTopologyZone)
		o.Spec = corev1.NodeSpec{PodCIDR: o.Spec.PodCIDR, PodCIDRs: o.Spec.PodCIDRs}
		o.Status = corev1.NodeStatus{Addresses: o.Status.Addresses}
	case metav1.ObjectMetaAccessor:
		if meta, ok := o.GetObjectMeta().(*metav1.ObjectMeta); ok {
			trimMeta(meta)
		}
	case cache.DeletedFinalStateUnknown:
		return obj, nil
	}
	return obj, nil
}

// trimMeta keeps what identifies an object, its age, and some labels.
func trimMeta(m *metav1.ObjectMeta, labels ...string) {
	kept := map[string]string{}
	for _, name := range labels {
		if v, ok := m.Labels[name]; ok {
			kept[name] = v
		}
	}
	*m = metav1.ObjectMeta{
		Namespace:         m.Namespace,
		Name:              m.Name,
		UID:               m.UID,
		ResourceVersion:   m.ResourceVersion,
		CreationTimestamp: m.CreationTimestamp,
		DeletionTimestamp: m.DeletionTimestamp,
		Labels:            kept,
	}
}
