package kubelet

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
)

// ErrImmutable is what Apply returns, with the field's name, for a change that a pod can't take while it exists.
var ErrImmutable = errors.New("forbidden: pod updates may not change fields other than " +
	"`metadata.labels`, `metadata.annotations`, `spec.containers[*].image`, `spec.initContainers[*].image` and " +
	"`spec.containers[*].resources.limits`; delete the pod first")

// checkUpdate refuses what can't change, as the API server does.
func checkUpdate(old, now *v1.Pod) error {
	a, b := old.Spec.DeepCopy(), now.Spec.DeepCopy()
	if b.NodeName == "" {
		b.NodeName = a.NodeName // a scheduler's part
	}
	for _, pair := range [][2][]v1.Container{{a.Containers, b.Containers}, {a.InitContainers, b.InitContainers}} {
		if len(pair[0]) != len(pair[1]) {
			continue
		}
		for i := range pair[0] {
			pair[1][i].Image = pair[0][i].Image
			pair[1][i].Resources = pair[0][i].Resources
		}
	}
	if field := differs(reflect.ValueOf(a).Elem(), reflect.ValueOf(b).Elem(), "spec"); field != "" {
		return fmt.Errorf("pod %s/%s: %s: %w", now.Namespace, now.Name, field, ErrImmutable)
	}
	return nil
}

// differs names the first field in which two values differ, as their JSON does; empty if there is none. Nil and empty
// are equal.
func differs(a, b reflect.Value, path string) string {
	switch a.Kind() {
	case reflect.Struct:
		if a.Type().PkgPath() != reflect.TypeFor[v1.PodSpec]().PkgPath() {
			break
		}
		for i := range a.NumField() {
			name, _, _ := strings.Cut(a.Type().Field(i).Tag.Get("json"), ",")
			below := path
			if name != "" {
				below += "." + name
			}
			if d := differs(a.Field(i), b.Field(i), below); d != "" {
				return d
			}
		}
		return ""
	case reflect.Pointer:
		if a.IsNil() || b.IsNil() {
			if a.IsNil() != b.IsNil() {
				return path
			}
			return ""
		}
		return differs(a.Elem(), b.Elem(), path)
	case reflect.Slice:
		for i := range min(a.Len(), b.Len()) {
			if d := differs(a.Index(i), b.Index(i), path+"["+strconv.Itoa(i)+"]"); d != "" {
				return d
			}
		}
		if a.Len() != b.Len() {
			return path + "[" + strconv.Itoa(min(a.Len(), b.Len())) + "]"
		}
		return ""
	case reflect.Map:
		if a.Len() == 0 && b.Len() == 0 {
			return ""
		}
	}
	if !equalValues(a, b) {
		return path
	}
	return ""
}

func equalValues(a, b reflect.Value) bool {
	return apiequality.Semantic.DeepEqual(a.Interface(), b.Interface())
}

// update applies what may change in a pod that runs.
func (w *worker) update(pod *v1.Pod) error {
	old := w.podNow()
	if err := checkUpdate(old, pod); err != nil {
		return err
	}
	if old.DeletionTimestamp != nil {
		return fmt.Errorf("pod %s is being deleted", w.name)
	}
	resized := false
	each(pod, func(c *v1.Container) {
		resized = resized || !apiequality.Semantic.DeepEqual(containerOf(old, c.Name).Resources, c.Resources)
	})
	if resized {
		err := w.resize(func(now *v1.Pod) {
			each(pod, func(c *v1.Container) { containerOf(now, c.Name).Resources = *c.Resources.DeepCopy() })
		})
		if err != nil {
			return fmt.Errorf("pod %s: %w", w.name, err)
		}
	}
	if !resized && maps.Equal(old.Labels, pod.Labels) && maps.Equal(old.Annotations, pod.Annotations) && sameImages(old, pod) {
		return nil
	}
	w.change(func() {
		now := w.state.pod.DeepCopy()
		now.Labels, now.Annotations = maps.Clone(pod.Labels), maps.Clone(pod.Annotations)
		now.Generation = max(now.Generation, pod.Generation)
		each(pod, func(c *v1.Container) { containerOf(now, c.Name).Image = c.Image })
		w.state.pod = now
	})
	w.refreshFiles()
	for _, c := range w.containers {
		if containerOf(old, c.rec.name).Image != containerOf(pod, c.rec.name).Image {
			c.kill(kill{message: "Container " + c.rec.name + " definition changed, will be restarted", grace: w.grace(), replace: true})
		}
	}
	return nil
}

// each calls f for all containers of a pod.
func each(pod *v1.Pod, f func(c *v1.Container)) {
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			f(&list[i])
		}
	}
}

func sameImages(a, b *v1.Pod) bool {
	same := true
	each(b, func(c *v1.Container) { same = same && containerOf(a, c.Name).Image == c.Image })
	return same
}
