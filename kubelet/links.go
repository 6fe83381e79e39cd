package kubelet

import (
	"iter"
	"net"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// serviceLinks are the variables that docker once made for linked containers, and that pods get for the Services of
// their namespace unless enableServiceLinks is false. The Service default/kubernetes is told to every pod.
func (s *source) serviceLinks() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for _, service := range s.files.services {
			master := service.Namespace == "default" && service.Name == "kubernetes"
			own := service.Namespace == s.pod.Namespace && (s.pod.Spec.EnableServiceLinks == nil || *s.pod.Spec.EnableServiceLinks)
			if !master && !own || !hasClusterIP(service) {
				continue
			}
			for _, v := range linkVariables(service) {
				if !yield(v[0], v[1]) {
					return
				}
			}
		}
	}
}

func hasClusterIP(s *v1.Service) bool {
	return s.Spec.ClusterIP != "" && s.Spec.ClusterIP != v1.ClusterIPNone && len(s.Spec.Ports) > 0
}

func linkVariables(s *v1.Service) [][2]string {
	ip := s.Spec.ClusterIP
	prefix := variableName(s.Name)
	out := [][2]string{
		{prefix + "_SERVICE_HOST", ip},
		{prefix + "_SERVICE_PORT", strconv.Itoa(int(s.Spec.Ports[0].Port))},
	}
	for _, p := range s.Spec.Ports {
		if p.Name != "" {
			out = append(out, [2]string{prefix + "_SERVICE_PORT_" + variableName(p.Name), strconv.Itoa(int(p.Port))})
		}
	}
	for i, p := range s.Spec.Ports {
		protocol, port := string(v1.ProtocolTCP), strconv.Itoa(int(p.Port))
		if p.Protocol != "" {
			protocol = string(p.Protocol)
		}
		url := strings.ToLower(protocol) + "://" + net.JoinHostPort(ip, port)
		if i == 0 {
			out = append(out, [2]string{prefix + "_PORT", url})
		}
		one := prefix + "_PORT_" + port + "_" + strings.ToUpper(protocol)
		out = append(out,
			[2]string{one, url},
			[2]string{one + "_PROTO", strings.ToLower(protocol)},
			[2]string{one + "_PORT", port},
			[2]string{one + "_ADDR", ip})
	}
	return out
}

func variableName(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }
