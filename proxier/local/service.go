package local

import (
	"errors"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"svcproxy/proxier"
)

// finishService fills in defaults and checks a Service. What is to be allocated is left open.
func finishService(o *corev1.Service) error {
	o.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Service"}
	proxier.DefaultService(o)
	all := checkMeta(&o.ObjectMeta, serviceLabel)
	spec := field.NewPath("spec")
	if o.Spec.Type == corev1.ServiceTypeExternalName {
		if wrong := subdomain(strings.TrimSuffix(o.Spec.ExternalName, ".")); len(wrong) > 0 {
			all = append(all, field.Invalid(spec.Child("externalName"), o.Spec.ExternalName, wrong[0]))
		}
		if o.Spec.ClusterIP != "" && o.Spec.ClusterIP != corev1.ClusterIPNone || len(o.Spec.ClusterIPs) > 0 {
			all = append(all, field.Forbidden(spec.Child("clusterIPs"), "goes with no Service of type ExternalName"))
		}
		return listError(all)
	}
	if len(o.Spec.Selector) > 0 {
		all = append(all, checkLabels(o.Spec.Selector, spec.Child("selector"))...)
	}
	if headless(o) && o.Spec.Type != corev1.ServiceTypeClusterIP {
		all = append(all, field.Invalid(spec.Child("clusterIPs").Index(0), corev1.ClusterIPNone, "goes with the type ClusterIP alone"))
	}
	if _, err := namedFamilies(o); err != nil {
		return err
	}
	if err := listError(all); err != nil {
		return err
	}
	_, _, err := proxier.ConvertService(allocatedForm(o))
	return errors.Unwrap(err) // which leaves out the object's name, as the caller says it
}

// allocatedForm returns a Service as it might be when everything is allocated, for checks of all else: with
// addresses, ports and node ports that could be its own.
func allocatedForm(o *corev1.Service) *corev1.Service {
	o = o.DeepCopy()
	if headless(o) {
		// A headless Service is not converted, but its ports are to be as good as others'.
		o.Spec.ClusterIP, o.Spec.ClusterIPs, o.Spec.IPFamilies = "", nil, nil
		if len(o.Spec.Ports) == 0 {
			o.Spec.Ports = []corev1.ServicePort{{Port: 1}}
		}
	}
	delete(o.Labels, corev1.IsHeadlessService)
	if o.Spec.ClusterIP == "" && len(o.Spec.ClusterIPs) == 0 {
		o.Spec.ClusterIP = "10.96.0.1"
		if len(o.Spec.IPFamilies) > 0 && o.Spec.IPFamilies[0] == corev1.IPv6Protocol {
			o.Spec.ClusterIP = "fd00:10:96::1"
		}
		o.Spec.ClusterIPs = []string{o.Spec.ClusterIP}
	}
	free := int32(1)
	for i := range o.Spec.Ports {
		if p := &o.Spec.Ports[i]; p.NodePort == 0 && needsNodePort(o) {
			for usesNodePort(o, free) {
				free++
			}
			p.NodePort = free
		}
	}
	return o
}

func usesNodePort(o *corev1.Service, port int32) bool {
	for _, p := range o.Spec.Ports {
		if p.NodePort == port {
			return true
		}
	}
	return o.Spec.HealthCheckNodePort == port
}
