package conntrack

import (
	"slices"

	"svcproxy/model"
	"svcproxy/plan"
)

// journal knows what was acknowledged since the last clean-up, as far as it can have made flows stale. No flow
// that the rules made since, or that the clean-up left, is stale unless
//
//   - a UDP frontend came, since flows to it that were made before are not translated, or are another's;
//   - a UDP frontend went, which leaves a tombstone;
//   - a UDP frontend lost a serving endpoint;
//   - node ports answer at other addresses.
//
// Endpoints that are added make none, nor does anything about TCP and SCTP.
type journal struct {
	tombstones Tombstones
	// due says that there can be stale flows.
	due bool
	// nodePorts counts the UDP node ports that are acknowledged, and at is where they answer.
	nodePorts int
	at        plan.NodePorts
}

// acknowledged notes a change that the kernel took, and what it had acknowledged before.
func (j *journal) acknowledged(c plan.Change, before map[model.ServiceName]*plan.Service) {
	if c.Full {
		j.move(c.Config.NodePorts, before)
		for name, old := range before {
			if _, decided := c.Services[name]; !decided && !c.Hold[name] {
				j.replace(old, nil)
			}
		}
	}
	for name, s := range c.Services {
		j.replace(before[name], s)
	}
}

// move notes where node ports answer. All were elsewhere before, if that is another place.
func (j *journal) move(to plan.NodePorts, before map[model.ServiceName]*plan.Service) {
	if sameNodePorts(to, j.at) {
		return
	}
	if j.nodePorts > 0 {
		for _, s := range before {
			for key := range frontendsOf(s) {
				if isNodePort(key) {
					j.bury(key, j.at)
				}
			}
		}
	}
	j.at = to
}

// replace notes the new decision about a Service; nil is none.
func (j *journal) replace(old, new *plan.Service) {
	if old == new {
		return
	}
	was, is := frontendsOf(old), frontendsOf(new)
	for key, p := range was {
		if isNodePort(key) {
			j.nodePorts--
		}
		now := is[key]
		switch {
		case now == nil:
			j.bury(key, j.at)
		case !j.due && loses(p, now):
			j.due = true
		}
	}
	for key := range is {
		if isNodePort(key) {
			j.nodePorts++
		}
		if was[key] == nil {
			j.due = true
		}
	}
}

// failed notes a change of which the kernel may have taken any part, so that flows may be made by it. The frontends
// that are acknowledged after all outweigh their tombstones.
func (j *journal) failed(c plan.Change) {
	for _, s := range c.Services {
		for key := range frontendsOf(s) {
			j.bury(key, c.Config.NodePorts)
		}
	}
}

// bury makes a tombstone, of a node port for the addresses where it answered.
func (j *journal) bury(key plan.FrontendKey, at plan.NodePorts) {
	if j.tombstones == nil {
		j.tombstones = Tombstones{}
	}
	places := j.tombstones[key]
	if isNodePort(key) && !slices.ContainsFunc(places, func(n plan.NodePorts) bool { return sameNodePorts(n, at) }) {
		places = append(places, at)
	}
	j.tombstones[key] = places
	j.due = true
}

// cleaned notes that nothing stale was left.
func (j *journal) cleaned() { j.tombstones, j.due = nil, false }

// loses tells whether an endpoint that served does not any more.
func loses(old, new *plan.ServicePort) bool {
	if slices.Equal(old.Endpoints, new.Endpoints) && slices.Equal(old.Local, new.Local) && slices.Equal(old.Excluded, new.Excluded) {
		return false
	}
	now := serving(new)
	for e := range serving(old) {
		if !now.has(e) {
			return true
		}
	}
	return false
}

func sameNodePorts(a, b plan.NodePorts) bool {
	return a.All == b.All && a.Loopback == b.Loopback && slices.Equal(a.Prefixes, b.Prefixes)
}

// isNodePort tells whether a frontend has no address of its own.
func isNodePort(key plan.FrontendKey) bool { return !key.Addr.IsValid() }

// frontendsOf returns a Service's UDP frontends, nil if there are none.
func frontendsOf(s *plan.Service) map[plan.FrontendKey]*plan.ServicePort {
	if s == nil || !slices.ContainsFunc(s.Ports, func(p plan.ServicePort) bool { return p.Name.Protocol == model.UDP }) {
		return nil
	}
	found := map[plan.FrontendKey]*plan.ServicePort{}
	addFrontends(found, s)
	return found
}
