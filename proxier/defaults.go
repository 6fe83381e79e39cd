package proxier

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// DefaultAffinitySeconds is the API server's default for sessionAffinityConfig.clientIP.timeoutSeconds.
const DefaultAffinitySeconds int32 = 10800

// DefaultService fills in what the API server fills in when a Service is created, addresses and node
// ports apart, which it allocates.
func DefaultService(o *corev1.Service) {
	defaultNamespace(&o.ObjectMeta)
	spec := &o.Spec
	if spec.Type == "" {
		spec.Type = corev1.ServiceTypeClusterIP
	}
	if spec.SessionAffinity == "" {
		spec.SessionAffinity = corev1.ServiceAffinityNone
	}
	defaultAffinity(spec)
	if spec.Type == corev1.ServiceTypeExternalName {
		return
	}
	for i := range spec.Ports {
		p := &spec.Ports[i]
		if p.Protocol == "" {
			p.Protocol = corev1.ProtocolTCP
		}
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	if spec.InternalTrafficPolicy == nil {
		cluster := corev1.ServiceInternalTrafficPolicyCluster
		spec.InternalTrafficPolicy = &cluster
	}
	if externallyAccessible(spec) && spec.ExternalTrafficPolicy == "" {
		spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	}
	defaultLoadBalancer(o)
	defaultFamilies(spec)
}

func defaultLoadBalancer(o *corev1.Service) {
	if o.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	if o.Spec.AllocateLoadBalancerNodePorts == nil {
		yes := true
		o.Spec.AllocateLoadBalancerNodePorts = &yes
	}
	for i := range o.Status.LoadBalancer.Ingress {
		if ingress := &o.Status.LoadBalancer.Ingress[i]; ingress.IP != "" && ingress.IPMode == nil {
			vip := corev1.LoadBalancerIPModeVIP
			ingress.IPMode = &vip
		}
	}
}

func defaultNamespace(meta *metav1.ObjectMeta) {
	if meta.Namespace == "" {
		meta.Namespace = metav1.NamespaceDefault
	}
}

func defaultAffinity(spec *corev1.ServiceSpec) {
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		if spec.SessionAffinity == corev1.ServiceAffinityNone {
			spec.SessionAffinityConfig = nil
		}
		return
	}
	if spec.SessionAffinityConfig == nil {
		spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{}
	}
	if spec.SessionAffinityConfig.ClientIP == nil {
		spec.SessionAffinityConfig.ClientIP = &corev1.ClientIPConfig{}
	}
	if c := spec.SessionAffinityConfig.ClientIP; c.TimeoutSeconds == nil {
		seconds := DefaultAffinitySeconds
		c.TimeoutSeconds = &seconds
	}
}

// defaultFamilies fills in clusterIPs from clusterIP or the other way round, and the families from them.
func defaultFamilies(spec *corev1.ServiceSpec) {
	switch {
	case len(spec.ClusterIPs) == 0 && spec.ClusterIP != "":
		spec.ClusterIPs = []string{spec.ClusterIP}
	case spec.ClusterIP == "" && len(spec.ClusterIPs) > 0:
		spec.ClusterIP = spec.ClusterIPs[0]
	}
	if len(spec.ClusterIPs) == 0 || spec.ClusterIP == corev1.ClusterIPNone {
		return
	}
	if len(spec.IPFamilies) == 0 {
		for _, ip := range spec.ClusterIPs {
			family := corev1.IPv4Protocol
			if strings.Contains(ip, ":") {
				family = corev1.IPv6Protocol
			}
			spec.IPFamilies = append(spec.IPFamilies, family)
		}
	}
	if spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		if len(spec.ClusterIPs) > 1 {
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		spec.IPFamilyPolicy = &policy
	}
}

// DefaultSlice fills in what the API server fills in when an EndpointSlice is created.
func DefaultSlice(o *discoveryv1.EndpointSlice) {
	defaultNamespace(&o.ObjectMeta)
	for i := range o.Ports {
		p := &o.Ports[i]
		if p.Name == nil {
			name := ""
			p.Name = &name
		}
		if p.Protocol == nil {
			tcp := corev1.ProtocolTCP
			p.Protocol = &tcp
		}
	}
}
