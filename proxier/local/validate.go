package local

import (
	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func checkLabels(labels map[string]string, path *field.Path) field.ErrorList {
	return metavalidation.ValidateLabels(labels, path)
}

// ValidatePod checks a pod with defaults as the API server does, and says what is wrong by field. It knows
// nothing of other objects: whether a ConfigMap exists is found out when the pod starts.
func ValidatePod(pod *corev1.Pod) error {
	all := checkMeta(&pod.ObjectMeta, subdomain)
	return nil2(all)
}
