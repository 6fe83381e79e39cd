package cluster

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// objectsConfigMap holds, for a pod that serves DNS, what there is to be known of Services.
var objectsConfigMap = types.NamespacedName{Namespace: metav1.NamespaceSystem, Name: "svcproxy-objects"}

// objectsKey is the file in it, which LoadManifests of the proxy reads.
const objectsKey = "objects.yaml"

// configMaps are those that were applied, and the one that the cluster makes itself.
func (c *Cluster) configMaps() []*v1.ConfigMap {
	all := c.objects.ConfigMaps()
	if slices.ContainsFunc(all, func(m *v1.ConfigMap) bool { return nameOf(m) == objectsConfigMap }) {
		return all // somebody's own
	}
	text, err := c.objects.Objects().NetworkYAML()
	if err != nil {
		c.log.Error("writing the cluster's objects: " + err.Error())
		return all
	}
	return append(all, &v1.ConfigMap{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: string(ConfigMaps)},
		ObjectMeta: metav1.ObjectMeta{Namespace: objectsConfigMap.Namespace, Name: objectsConfigMap.Name, CreationTimestamp: metav1.NewTime(c.created)},
		Data:       map[string]string{objectsKey: string(text)},
	})
}

func nameOf(o metav1.Object) types.NamespacedName {
	return types.NamespacedName{Namespace: o.GetNamespace(), Name: o.GetName()}
}

// Get returns objects as JSON, each with apiVersion and kind. Those that are named but don't exist are an error.
func (c *Cluster) Get(s Selection) ([]json.RawMessage, error) {
	want, err := labels.Parse(s.Labels)
	if err != nil {
		return nil, fmt.Errorf("selector %q: %w", s.Labels, err)
	}
	var found []metav1.Object
	for _, kind := range s.Kinds {
		for _, o := range c.all(kind) {
			if (s.Namespace == "" || !kinds[kind].namespaced || o.GetNamespace() == s.Namespace) && want.Matches(labels.Set(o.GetLabels())) {
				found = append(found, o)
			}
		}
	}
	for _, r := range s.Refs {
		o := c.one(r)
		if o == nil {
			return nil, r.notFound()
		}
		found = append(found, o)
	}
	var encoded []json.RawMessage
	for _, o := range found {
		data, err := json.Marshal(o)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", refOf(o), err)
		}
		encoded = append(encoded, data)
	}
	return encoded, nil
}

func (c *Cluster) one(r Ref) metav1.Object {
	for _, o := range c.all(r.Kind) {
		if refOf(o) == r {
			return o
		}
	}
	return nil
}

// all lists the objects of a kind.
func (c *Cluster) all(kind Kind) []metav1.Object {
	switch kind {
	case Pods:
		return listOf(c.objects.Pods())
	case Services:
		return listOf(c.objects.Services())
	case EndpointSlices:
		return listOf(c.objects.EndpointSlices())
	case ConfigMaps:
		return listOf(c.configMaps())
	case Secrets:
		return listOf(c.objects.Secrets())
	case Namespaces:
		return listOf(c.objects.Objects().Namespaces)
	case Nodes:
		return listOf([]*v1.Node{c.objects.Node()})
	case Events:
		return listOf(c.events())
	}
	return nil
}

func listOf[T metav1.Object](objects []T) []metav1.Object {
	var all []metav1.Object
	for _, o := range objects {
		all = append(all, o)
	}
	return all
}

// events are what the kubelet has to tell, oldest first.
func (c *Cluster) events() []*v1.Event {
	var all []*v1.Event
	for _, pod := range c.objects.Pods() {
		for i, e := range c.kubelet.Events(nameOf(pod)) {
			field := ""
			if e.Container != "" {
				field = "spec.containers{" + e.Container + "}"
			}
			all = append(all, &v1.Event{
				TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: string(Events)},
				ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: fmt.Sprintf("%s.%x", pod.Name, e.Time.UnixNano()+int64(i)), CreationTimestamp: metav1.NewTime(e.Time)},
				InvolvedObject: v1.ObjectReference{
					APIVersion: "v1", Kind: string(Pods), Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, FieldPath: field,
				},
				Type: e.Type, Reason: e.Reason, Message: e.Message, Count: int32(e.Count),
				FirstTimestamp: metav1.NewTime(e.Time), LastTimestamp: metav1.NewTime(e.Time),
				Source: v1.EventSource{Component: "kubelet", Host: NodeName},
			})
		}
	}
	slices.SortStableFunc(all, func(a, b *v1.Event) int { return cmp.Compare(a.LastTimestamp.UnixNano(), b.LastTimestamp.UnixNano()) })
	return all
}
