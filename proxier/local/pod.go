package local

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// AnnotationPodIPs names the addresses that a pod wants, at most one of each family, separated by commas:
// "10.244.0.7,fd00:10:244::7". The API has no field for this.
const AnnotationPodIPs = "svcproxy/pod-ips"

// ResourcePIDs is the resource that limits a container's processes and threads, in resources.limits; an API server
// knows no such resource for containers.
const ResourcePIDs corev1.ResourceName = "pids"

// ServiceAccountPath is where a container finds ca.crt, namespace and token.
const ServiceAccountPath = "/var/run/secrets/kubernetes.io/serviceaccount"

// serviceAccountVolume begins the name of the volume that a cluster's admission adds to a pod for
// ServiceAccountPath.
const serviceAccountVolume = "kube-api-access-"

// WantedPodIPs returns the addresses that AnnotationPodIPs asks for.
func WantedPodIPs(pod *corev1.Pod) ([]netip.Addr, error) {
	text, set := pod.Annotations[AnnotationPodIPs]
	if !set {
		return nil, nil
	}
	var addrs []netip.Addr
	for part := range strings.SplitSeq(text, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(part))
		if err != nil || a.Is4In6() || a.Zone() != "" {
			return nil, fmt.Errorf("metadata.annotations[%s]: %s is not an IP address", AnnotationPodIPs, quoted(part))
		}
		for _, b := range addrs {
			if a.Is4() == b.Is4() {
				return nil, fmt.Errorf("metadata.annotations[%s]: %s is the second of its family", AnnotationPodIPs, a)
			}
		}
		addrs = append(addrs, a)
	}
	return addrs, nil
}

// decodePod reads a pod as Load does.
func decodePod(doc []byte) (*corev1.Pod, error) {
	pod := &corev1.Pod{}
	if err := unmarshal(doc, pod, &pod.ObjectMeta); err != nil {
		return nil, err
	}
	if err := checkPodFields(doc); err != nil {
		return nil, err
	}
	pod.Status = corev1.PodStatus{}
	if err := dropServiceAccountVolume(pod); err != nil {
		return nil, err
	}
	SetPodDefaults(pod)
	if err := ValidatePod(pod); err != nil {
		return nil, err
	}
	return pod, nil
}

// SetPodDefaults fills in what the API server fills in when a pod is created, what its admission adds for
// service accounts, tolerations and priority apart.
func SetPodDefaults(pod *corev1.Pod) {
	pod.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	defaultMeta(&pod.ObjectMeta)
	defaultPodSpec(&pod.Spec)
}

// dropServiceAccountVolume drops the volume that a cluster's admission added: the kubelet gives the same files
// of its own.
func dropServiceAccountVolume(pod *corev1.Pod) error {
	spec := &pod.Spec
	if spec.AutomountServiceAccountToken != nil && !*spec.AutomountServiceAccountToken {
		return nil
	}
	added := func(name string) bool { return strings.HasPrefix(name, serviceAccountVolume) }
	drops := false
	spec.Volumes = without(spec.Volumes, func(v corev1.Volume) bool {
		drop := added(v.Name) && v.Projected != nil
		drops = drops || drop
		return drop
	})
	if !drops {
		return nil
	}
	var wrong field.ErrorList
	eachContainer(spec, func(c *corev1.Container, path *field.Path, _ bool) {
		for i, m := range c.VolumeMounts {
			if added(m.Name) && m.MountPath != ServiceAccountPath {
				wrong = append(wrong, field.Invalid(path.Child("volumeMounts").Index(i).Child("mountPath"), m.MountPath,
					"the volume of the service account is mounted at "+ServiceAccountPath+" alone"))
			}
		}
		c.VolumeMounts = without(c.VolumeMounts, func(m corev1.VolumeMount) bool { return added(m.Name) })
	})
	return listError(wrong)
}

// without returns the elements that are not to be dropped; nil if none is left.
func without[T any](all []T, drop func(T) bool) []T {
	var kept []T
	for _, one := range all {
		if !drop(one) {
			kept = append(kept, one)
		}
	}
	return kept
}

// eachContainer calls f with each container and its field.
func eachContainer(spec *corev1.PodSpec, f func(c *corev1.Container, path *field.Path, initial bool)) {
	for i := range spec.InitContainers {
		f(&spec.InitContainers[i], field.NewPath("spec", "initContainers").Index(i), true)
	}
	for i := range spec.Containers {
		f(&spec.Containers[i], field.NewPath("spec", "containers").Index(i), false)
	}
}
