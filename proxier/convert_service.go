package proxier

import (
	"net/netip"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"

	"svcproxy/model"
)

// labelProxyName on a Service says that another proxy serves it.
const labelProxyName = "service.kubernetes.io/service-proxy-name"

// at names an element of a list: "spec.ports[1]".
func at(field string, i int) string { return field + "[" + strconv.Itoa(i) + "]" }

// ConvertService turns a Service into the model's form. It is nil if the Service is not for svcproxy to
// serve, and the notes say why; the notes also name what has no effect. What the API server would refuse
// makes the whole Service unusable, and then err names every field; an external address that it takes and
// that must not be served is left out and noted.
func ConvertService(o *corev1.Service) (s *model.Service, notes []string, err error) {
	f := &findings{object: object("Service", o.Namespace, o.Name)}
	if field, why := unserved(o); why != "" {
		f.note(field, "%s", why)
		return nil, f.notes, nil
	}
	f.label("metadata.namespace", o.Namespace)
	f.label("metadata.name", o.Name)
	spec := &o.Spec
	s = &model.Service{
		Name:          model.ServiceName{Namespace: o.Namespace, Name: o.Name},
		Created:       o.CreationTimestamp.Time,
		ClusterIPs:    f.clusterIPs(spec),
		Ports:         f.servicePorts(spec.Ports),
		Affinity:      f.affinity(spec),
		InternalLocal: f.internalLocal(value(spec.InternalTrafficPolicy)),
	}
	f.external(o, s)
	if err := f.err(); err != nil {
		return nil, f.notes, err
	}
	return s, f.notes, nil
}

// unserved tells why a Service is not svcproxy's to serve, or nothing if it is.
func unserved(o *corev1.Service) (field, why string) {
	if name, excluded := o.Labels[labelProxyName]; excluded {
		return "metadata.labels[" + labelProxyName + "]", "left to another proxy, " + printable(name)
	}
	if _, headless := o.Labels[corev1.IsHeadlessService]; headless {
		return "metadata.labels[" + corev1.IsHeadlessService + "]", "headless, so there is nothing to balance"
	}
	if o.Spec.Type == corev1.ServiceTypeExternalName {
		return "spec.type", "ExternalName, so there is nothing to balance"
	}
	if o.Spec.ClusterIP == corev1.ClusterIPNone || slices.Contains(o.Spec.ClusterIPs, corev1.ClusterIPNone) {
		return "spec.clusterIP", "headless, so there is nothing to balance"
	}
	return "", ""
}

// clusterIPs reads the ClusterIPs: one, or one of each family.
func (f *findings) clusterIPs(spec *corev1.ServiceSpec) []netip.Addr {
	given := spec.ClusterIPs
	switch {
	case len(given) == 0 && spec.ClusterIP == "":
		f.bad("spec.clusterIP", "is missing")
	case len(given) == 0:
		given = []string{spec.ClusterIP}
	case spec.ClusterIP != "" && given[0] != spec.ClusterIP:
		f.bad("spec.clusterIPs[0]", "%s is not the clusterIP %s", printable(given[0]), printable(spec.ClusterIP))
	}
	var read []netip.Addr
	for i, s := range given {
		path := at("spec.clusterIPs", i)
		if i == 0 && s == spec.ClusterIP {
			path = "spec.clusterIP" // which the other may only be a copy of
		}
		a, err := f.addr(path, s)
		switch {
		case err != nil:
			f.bad(path, "%w", err)
		case a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a == broadcast:
			f.bad(path, "%s can't be a ClusterIP: it is unspecified, loopback, multicast or broadcast", a)
		case slices.ContainsFunc(read, func(b netip.Addr) bool { return model.FamilyOf(a) == model.FamilyOf(b) }):
			f.bad(path, "%s is the second of its family", a)
		case i < len(spec.IPFamilies) && string(spec.IPFamilies[i]) != model.FamilyOf(a).String():
			f.bad(at("spec.ipFamilies", i), "%s is not the family of %s", printable(string(spec.IPFamilies[i])), a)
		default:
			read = append(read, a)
		}
	}
	return read
}

// servicePorts reads the ports of a Service.
func (f *findings) servicePorts(ports []corev1.ServicePort) []model.ServicePort {
	if len(ports) == 0 {
		f.bad("spec.ports", "is empty")
	}
	type number struct {
		protocol model.Protocol
		port     uint16
	}
	names, numbers := map[string]bool{}, map[number]bool{}
	var read []model.ServicePort
	for i, p := range ports {
		path := at("spec.ports", i)
		sp := model.ServicePort{
			Name:     p.Name,
			Protocol: f.protocol(path+".protocol", string(p.Protocol)),
			Port:     f.port(path+".port", p.Port),
		}
		switch {
		case p.Name == "" && len(ports) > 1:
			f.bad(path+".name", "is missing: every port needs one where there are several")
		case p.Name != "":
			f.label(path+".name", p.Name)
		}
		if names[p.Name] && p.Name != "" {
			f.bad(path+".name", "%s is there twice", printable(p.Name))
		}
		if n := (number{sp.Protocol, sp.Port}); numbers[n] && sp.Port != 0 && sp.Protocol != 0 {
			f.bad(path+".port", "%d %s is there twice", sp.Port, sp.Protocol)
		} else {
			numbers[n] = true
		}
		names[p.Name] = true
		f.targetPort(path+".targetPort", p.TargetPort)
		read = append(read, sp)
	}
	return read
}

// targetPort checks a target port, though slices already say what it leads to: a mistake in it is best
// reported where it was made.
func (f *findings) targetPort(field string, p intstr.IntOrString) {
	switch {
	case p.Type == intstr.String && p.StrVal == "", p.Type == intstr.Int && p.IntVal == 0:
	case p.Type == intstr.Int:
		f.port(field, p.IntVal)
	default:
		if wrong := validation.IsValidPortName(p.StrVal); len(wrong) > 0 {
			f.bad(field, "%s is not a port name: %s", printable(p.StrVal), wrong[0])
		}
	}
}

// internalLocal reads the internal traffic policy; none is Cluster.
func (f *findings) internalLocal(p corev1.ServiceInternalTrafficPolicy) bool {
	switch p {
	case "", corev1.ServiceInternalTrafficPolicyCluster:
	case corev1.ServiceInternalTrafficPolicyLocal:
		return true
	default:
		f.bad("spec.internalTrafficPolicy", "%s is unknown: want Cluster or Local", printable(string(p)))
	}
	return false
}

// maxAffinitySeconds is the API's limit of sessionAffinityConfig.clientIP.timeoutSeconds: a day.
const maxAffinitySeconds int32 = 86400

// affinity reads the session affinity; none is None.
func (f *findings) affinity(spec *corev1.ServiceSpec) time.Duration {
	switch spec.SessionAffinity {
	case "", corev1.ServiceAffinityNone:
		return 0
	case corev1.ServiceAffinityClientIP:
	default:
		f.bad("spec.sessionAffinity", "%s is unknown: want None or ClientIP", printable(string(spec.SessionAffinity)))
		return 0
	}
	seconds := DefaultAffinitySeconds
	if c := spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	if seconds < 1 || seconds > maxAffinitySeconds {
		f.bad("spec.sessionAffinityConfig.clientIP.timeoutSeconds", "%d is out of range: want 1 to %d", seconds, maxAffinitySeconds)
		return 0
	}
	return time.Duration(seconds) * time.Second
}
