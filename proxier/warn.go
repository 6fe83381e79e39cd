package proxier

import (
	"fmt"
	"strings"

	"go.uber.org/zap"

	"svcproxy/model"
	"svcproxy/plan"
)

// warn logs what decisions leave unserved that objects ask for: endpoints that can never be used, and frontends
// that another Service holds. The same about a Service is logged once, until it becomes something else.
func (p *pipeline) warn(decided map[model.ServiceName]*plan.Service) {
	for name, s := range decided {
		about := p.family.String() + " " + name.String()
		if s == nil {
			p.notes.forget(about)
			continue
		}
		vain := inVain(s)
		if p.notes.changed(about, strings.Join(vain, "; ")) {
			p.log.Warn("not everything of the Service is served", zap.Stringer("service", name), zap.Strings("unserved", vain))
		}
	}
}

// inVain returns a sentence for each thing that a Service has in vain.
func inVain(s *plan.Service) (all []string) {
	for _, port := range s.Ports {
		for _, e := range port.Excluded {
			if e.Reason == plan.BadAddress || e.Reason == plan.ZeroPort {
				all = append(all, fmt.Sprintf("%s: endpoint %s is never used: %s", port.Name, e.Endpoint.AddrPort(), e.Reason))
			}
		}
		for _, l := range port.Lost {
			all = append(all, fmt.Sprintf("%s: %s %s belongs to %s", port.Name, l.Frontend.Kind, frontendText(l.Frontend.FrontendKey), l.Holder))
		}
	}
	return all
}

// frontendText is a frontend's address, port and protocol; a node port has no address.
func frontendText(k plan.FrontendKey) string {
	at := fmt.Sprintf("*:%d", k.Port)
	if k.Addr.IsValid() {
		at = fmt.Sprint(k.Addr, " port ", k.Port)
	}
	return at + " " + k.Protocol.String()
}
