package local

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// The annotations of pods that have a meaning here and no field in the API.
const (
	// AnnotationPidsLimit is the most processes and threads that a pod may have, all its containers together
	// and its pause process included, as the kubelet's podPidsLimit: "100".
	AnnotationPidsLimit = "svcproxy/pids-limit"
	// AnnotationPodIPs are the addresses that a pod wants, at most one of each family, separated by commas:
	// "10.244.0.7,fd00:10:244::7".
	AnnotationPodIPs = "svcproxy/pod-ips"
)

// MinPidsLimit is the least AnnotationPidsLimit: the pause process, one container's program, and what it takes to
// start that.
const MinPidsLimit = 4

// ServiceAccountPath is where a container finds ca.crt, namespace and token.
const ServiceAccountPath = "/var/run/secrets/kubernetes.io/serviceaccount"

// serviceAccountVolume begins the name of the volume that a cluster's admission adds to a pod for
// ServiceAccountPath.
const serviceAccountVolume = "kube-api-access-"

// PidsLimit returns the limit that AnnotationPidsLimit sets, or 0 for none.
func PidsLimit(pod *corev1.Pod) (int64, error) {
	text, set := pod.Annotations[AnnotationPidsLimit]
	if !set {
		return 0, nil
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < MinPidsLimit {
		return 0, fmt.Errorf("metadata.annotations[%s]: %s is not a number of at least %d", AnnotationPidsLimit, quoted(text), MinPidsLimit)
	}
	return n, nil
}

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
	if err := checkPodFields(doc); err != nil {
		return nil, err
	}
	pod := &corev1.Pod{}
	if err := unmarshal(doc, pod, &pod.ObjectMeta); err != nil {
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

func dropServiceAccountVolume(pod *corev1.Pod) error { return nil }
