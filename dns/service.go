package dns

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	mdns "github.com/miekg/dns"

	"svcproxy/model"
)

// Service is a Service as DNS sees it: unlike the data plane it also answers for headless and
// ExternalName Services. A Service with an ExternalName is an alias, one with ClusterIPs has those, and
// any other is headless.
type Service struct {
	Name         model.ServiceName
	ClusterIPs   []netip.Addr
	ExternalName string
	// Ports are the ports of a Service with ClusterIPs.
	Ports []model.ServicePort
	// Endpoints are the endpoints that may be published: the ready ones, which are all where the Service
	// publishes addresses that are not ready. Those of a Service with ClusterIPs have names of their own too.
	Endpoints []Endpoint
}

// Endpoint is one endpoint of a Service.
type Endpoint struct {
	Addr netip.Addr
	// Hostname is empty where the endpoint has none; its address with dashes, as CoreDNS
	// writes it, is its name then.
	Hostname string
	// Ports are those of the endpoint's slice: the numbers that the endpoint itself listens on.
	Ports []model.ServicePort
}

// host returns the label that names the endpoint under its Service.
func (e Endpoint) host() string {
	if e.Hostname != "" {
		return strings.ToLower(e.Hostname)
	}
	label := strings.NewReplacer(".", "-", ":", "-").Replace(e.Addr.Unmap().WithZone("").String())
	if strings.HasSuffix(label, "-") {
		label += "0" // no label ends in a hyphen
	}
	return label
}

// check tells what of the Service can't be put into DNS; the error names the Service and the field.
func (s *Service) check() error {
	if !isLabel(s.Name.Namespace) {
		return s.wrong("metadata.namespace", s.Name.Namespace)
	}
	if !isLabel(s.Name.Name) {
		return s.wrong("metadata.name", s.Name.Name)
	}
	if s.ExternalName != "" && !isHostname(s.ExternalName) {
		return s.wrong("spec.externalName", s.ExternalName)
	}
	if _, err := netip.ParseAddr(s.ExternalName); err == nil {
		return fmt.Errorf("service %q: spec.externalName: %s is an address, not a name", s.Name, s.ExternalName)
	}
	if slices.ContainsFunc(s.ClusterIPs, func(a netip.Addr) bool { return !a.IsValid() }) {
		return fmt.Errorf("service %q: spec.clusterIPs: not an IP address", s.Name)
	}
	errs := []error{s.checkPorts("spec.ports", s.Ports)}
	for i, e := range s.Endpoints {
		field := fmt.Sprintf("endpoints[%d]", i)
		if !e.Addr.IsValid() {
			errs = append(errs, fmt.Errorf("service %q: %s.addresses: not an IP address", s.Name, field))
		}
		if e.Hostname != "" && !isLabel(e.Hostname) {
			errs = append(errs, s.wrong(field+".hostname", e.Hostname))
		}
		errs = append(errs, s.checkPorts(field+".ports", e.Ports))
	}
	return errors.Join(errs...)
}

func (s *Service) checkPorts(field string, ports []model.ServicePort) error {
	for i, p := range ports {
		// One octet of its label is the underscore's.
		if p.Name != "" && (!isLabel(p.Name) || len(p.Name) == maxLabel) {
			return s.wrong(fmt.Sprintf("%s[%d].name", field, i), p.Name)
		}
		if p.Protocol != model.TCP && p.Protocol != model.UDP && p.Protocol != model.SCTP {
			return fmt.Errorf("service %q: %s[%d].protocol: unknown %s", s.Name, field, i, p.Protocol)
		}
	}
	return nil
}

// maxName is the longest name in characters, final dot included: 255 octets on the wire (RFC 1035,
// 2.3.4), which has one more.
const maxName = 254

// checkLength tells whether all names under the Service's own one, given in full, fit a message.
func (s *Service) checkLength(name string) error {
	longest := 0
	for _, p := range s.Ports {
		longest = max(longest, len(portLabels(p)))
	}
	for _, e := range s.Endpoints {
		longest = max(longest, len(e.host())+1)
		for _, p := range e.Ports {
			longest = max(longest, len(portLabels(p)))
		}
	}
	if longest+len(name) > maxName {
		return fmt.Errorf("service %q: metadata.name: names under %q are longer than %d characters", s.Name, name, maxName)
	}
	return nil
}

func (s *Service) wrong(field, value string) error {
	return fmt.Errorf("service %q: %s: %q is not a DNS name", s.Name, field, value)
}

// maxLabel is the longest label in octets (RFC 1035, 2.3.4).
const maxLabel = 63

// isLabel tells whether s is one label of letters, digits and inner hyphens, as RFC 1123 has host names.
func isLabel(s string) bool {
	if s == "" || len(s) > maxLabel || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// isHostname tells whether s is a name of such labels, with a final dot or without, that fits a message.
// Underscores are taken too, since names with them are in use as targets of aliases.
func isHostname(s string) bool {
	labels := strings.Split(strings.TrimSuffix(s, "."), ".")
	for _, l := range labels {
		if !isLabel(strings.ReplaceAll(l, "_", "x")) {
			return false
		}
	}
	_, ok := mdns.IsDomainName(s)
	return ok
}

// portLabels returns "_name._protocol.", or nothing for a port without a name, which has no SRV record.
func portLabels(p model.ServicePort) string {
	if p.Name == "" {
		return ""
	}
	return strings.ToLower("_" + p.Name + "._" + p.Protocol.String() + ".")
}
