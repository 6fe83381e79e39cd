package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"svcproxy/proxier/local"
)

// Apply brings the objects of manifests into the cluster, all or none, and returns what became of each. With create,
// those that exist are an error. Objects that the manifests don't hold stay as they are.
func (c *Cluster) Apply(ctx context.Context, m *local.Manifests, create bool) ([]Change, error) {
	c.applying.Lock()
	defer c.applying.Unlock()
	before := c.held()
	if err := c.admit(m, before, create); err != nil {
		return nil, err
	}
	taken, err := c.objects.Apply(m)
	if err != nil {
		return nil, err
	}
	var changes []Change
	for _, o := range taken.Objects() {
		r := refOf(o)
		changes = append(changes, Change{Ref: r, Action: actionOf(before[r], o)})
	}
	// Before the pods: they mount them.
	c.giveFiles()
	for i, pod := range taken.Pods {
		if before[refOf(pod)] != nil && actionOf(before[refOf(pod)], pod) == Unchanged {
			continue
		}
		if err := c.kubelet.Apply(pod); err != nil {
			return nil, errors.Join(err, c.takeBack(ctx, taken, taken.Pods[:i+1], before))
		}
	}
	return changes, nil
}

// held are all objects now.
func (c *Cluster) held() map[Ref]metav1.Object {
	all := map[Ref]metav1.Object{}
	for _, o := range c.objects.Objects().Manifests.Objects() {
		all[refOf(o)] = o
	}
	return all
}

// admit finds what can be told to be wrong before anything is changed.
func (c *Cluster) admit(m *local.Manifests, before map[Ref]metav1.Object, create bool) error {
	var errs []error
	for _, o := range m.Objects() {
		r := refOf(o)
		old := before[r]
		switch {
		case old == nil:
		case create:
			errs = append(errs, fmt.Errorf("%s already exists", r))
		case old.GetDeletionTimestamp() != nil:
			errs = append(errs, fmt.Errorf("%s is being deleted: wait until it is gone", r))
		}
	}
	for _, pod := range m.Pods {
		errs = append(errs, c.kubelet.Check(pod))
	}
	return errors.Join(errs...)
}

// takeBack undoes an Apply that the kubelet did not take whole.
func (c *Cluster) takeBack(ctx context.Context, taken *local.Manifests, given []*v1.Pod, before map[Ref]metav1.Object) error {
	var errs []error
	for _, pod := range slices.Backward(given) {
		if old, ok := before[refOf(pod)].(*v1.Pod); ok {
			errs = append(errs, c.kubelet.Apply(old))
		} else if _, known := c.kubelet.Pod(nameOf(pod)); known {
			errs = append(errs, c.kubelet.Delete(ctx, nameOf(pod)))
		}
	}
	old := &local.Manifests{}
	for _, o := range taken.Objects() {
		if was := before[refOf(o)]; was != nil {
			add(old, was)
		} else {
			c.forget(refOf(o))
		}
	}
	_, err := c.objects.Apply(old)
	c.giveFiles()
	return errors.Join(append(errs, err)...)
}

// add puts an object among its kind.
func add(m *local.Manifests, object metav1.Object) {
	switch o := object.(type) {
	case *v1.Pod:
		m.Pods = append(m.Pods, o)
	case *v1.Service:
		m.Services = append(m.Services, o)
	case *v1.ConfigMap:
		m.ConfigMaps = append(m.ConfigMaps, o)
	case *v1.Secret:
		m.Secrets = append(m.Secrets, o)
	case *discoveryv1.EndpointSlice:
		m.EndpointSlices = append(m.EndpointSlices, o)
	case *v1.Namespace:
		m.Namespaces = append(m.Namespaces, o)
	}
}

// actionOf tells what a change from one version of an object to another is called.
func actionOf(old, now metav1.Object) string {
	if old == nil {
		return Created
	}
	if equality.Semantic.DeepEqual(withoutStatus(old), withoutStatus(now)) {
		return Unchanged
	}
	return Configured
}

func withoutStatus(o metav1.Object) metav1.Object {
	if pod, ok := o.(*v1.Pod); ok {
		pod = pod.DeepCopy()
		pod.Status = v1.PodStatus{}
		return pod
	}
	return o
}

// giveFiles gives the kubelet what pods may mount and be told of.
func (c *Cluster) giveFiles() {
	c.publishing.Lock()
	defer c.publishing.Unlock()
	c.kubelet.SetFiles(c.configMaps(), c.objects.Secrets(), c.objects.Services())
}

// Delete removes objects, pods gracefully, and returns when they are gone. One that does not exist is an error,
// and then nothing is removed.
func (c *Cluster) Delete(ctx context.Context, refs []Ref) ([]Change, error) {
	before := c.held()
	var missing []error
	for _, r := range refs {
		if before[r] == nil {
			missing = append(missing, r.notFound())
		}
	}
	if len(missing) > 0 {
		return nil, errors.Join(missing...)
	}
	errs := make(chan error, len(refs))
	pods := 0
	for _, r := range refs {
		if r.Kind == Pods {
			pods++
			go func() { errs <- c.kubelet.Delete(ctx, podName(r)) }()
		}
	}
	var all []error
	for range pods {
		all = append(all, <-errs)
	}
	if err := errors.Join(all...); err != nil {
		return nil, err
	}
	c.applying.Lock()
	defer c.applying.Unlock()
	var changes []Change
	for _, r := range refs {
		c.forget(r)
		changes = append(changes, Change{Ref: r, Action: Deleted})
	}
	c.giveFiles()
	return changes, c.programmed(ctx)
}

// forget drops an object.
func (c *Cluster) forget(r Ref) {
	name := podName(r)
	switch r.Kind {
	case Pods:
		c.objects.DeletePod(name)
	case Services:
		c.objects.DeleteService(name)
	case EndpointSlices:
		c.objects.DeleteEndpointSlice(name)
	case ConfigMaps:
		c.objects.DeleteConfigMap(name)
	case Secrets:
		c.objects.DeleteSecret(name)
	}
}

// notFound is the error for an object that does not exist, in kubectl's words.
func (r Ref) notFound() error {
	return fmt.Errorf("%s %q %w", kinds[r.Kind].plural, r.Name, errNotFound)
}

// refOf names an object by its own kind.
func refOf(o metav1.Object) Ref {
	kind := o.(runtime.Object).GetObjectKind().GroupVersionKind().Kind
	return Ref{Kind: Kind(kind), Namespace: o.GetNamespace(), Name: o.GetName()}
}
