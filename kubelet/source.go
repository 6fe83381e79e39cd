package kubelet

import (
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// files are the config maps and secrets that pods may name, and the Services that they may be told of. They are
// replaced as a whole, never changed.
type files struct {
	configMaps map[types.NamespacedName]*v1.ConfigMap
	secrets    map[types.NamespacedName]*v1.Secret
	services   []*v1.Service
}

// source is all that a pod's variables and files are computed from.
type source struct {
	pod      *v1.Pod
	nodeName string
	hostIPs  []string
	podIPs   []string
	capacity v1.ResourceList // of the node
	files    *files
	token    *tokenMaker
}

func (s *source) configMap(name string) (*v1.ConfigMap, bool) {
	m, ok := s.files.configMaps[types.NamespacedName{Namespace: s.pod.Namespace, Name: name}]
	return m, ok
}

func (s *source) secret(name string) (*v1.Secret, bool) {
	m, ok := s.files.secrets[types.NamespacedName{Namespace: s.pod.Namespace, Name: name}]
	return m, ok
}

func serviceAccount(pod *v1.Pod) string {
	if pod.Spec.ServiceAccountName != "" {
		return pod.Spec.ServiceAccountName
	}
	return "default"
}

// containerOf finds a container, also among the init containers.
func containerOf(pod *v1.Pod, name string) *v1.Container {
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}

func isTrue(b *bool) bool { return b != nil && *b }

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
