package dns

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"svcproxy/model"
)

// builder makes the tables of the next Zone.
type builder struct {
	zone       *Zone
	services   *edit[string, *entry]
	namespaces *edit[string, namespace]
	addrs      *edit[netip.Addr, holders]
	pods       *edit[model.ServiceName, []netip.Addr]
	podAddrs   *edit[podAddr, int]
}

// setService puts a Service in the place of the one of that name.
func (b *builder) setService(name model.ServiceName, s *Service) error {
	b.removeService(name)
	key := serviceKey(name)
	if other, taken := b.services.get(key); taken {
		return fmt.Errorf("service %q: is %q in DNS, which has no case", name, other.service)
	}
	if err := s.check(); err != nil {
		return err
	}
	full := b.zone.serviceName(name)
	if err := s.checkLength(full); err != nil {
		return err
	}
	b.addEntry(key, newEntry(full, s))
	return nil
}

func (b *builder) removeService(name model.ServiceName) {
	key := serviceKey(name)
	if old, ok := b.services.get(key); ok && old.service == name {
		b.removeEntry(key, old)
	}
}

func (b *builder) addEntry(key string, e *entry) {
	b.services.set(key, e)
	ns := strings.ToLower(e.service.Namespace)
	state, _ := b.namespaces.get(ns)
	state.services++
	b.setNamespace(ns, state)
	for _, a := range e.addrs {
		h, _ := b.addrs.get(a)
		b.addrs.set(a, h.with(holder{entry: key, host: e.name, cluster: true}))
	}
	for a, hosts := range e.endpointNames() {
		h, _ := b.addrs.get(a)
		for _, host := range hosts {
			h = h.with(holder{entry: key, host: host})
		}
		b.addrs.set(a, h)
	}
}

func (b *builder) removeEntry(key string, e *entry) {
	b.services.remove(key)
	ns := strings.ToLower(e.service.Namespace)
	state, _ := b.namespaces.get(ns)
	state.services--
	b.setNamespace(ns, state)
	for _, a := range e.addrs {
		b.dropHolder(a, key)
	}
	for a := range e.endpointNames() {
		b.dropHolder(a, key)
	}
}

func (b *builder) dropHolder(a netip.Addr, key string) {
	if h, ok := b.addrs.get(a); ok {
		if h = h.without(key); len(h) == 0 {
			b.addrs.remove(a)
		} else {
			b.addrs.set(a, h)
		}
	}
}

func (b *builder) setNamespace(name string, state namespace) {
	if state == (namespace{}) {
		b.namespaces.remove(name)
		return
	}
	b.namespaces.set(name, state)
}

// setPod puts a pod's addresses in the place of those that it had.
func (b *builder) setPod(name model.ServiceName, addrs []netip.Addr) {
	count := func(all []netip.Addr, by int) {
		for _, a := range all {
			key := podAddr{strings.ToLower(name.Namespace), a}
			n, _ := b.podAddrs.get(key)
			if n += by; n == 0 {
				b.podAddrs.remove(key)
			} else {
				b.podAddrs.set(key, n)
			}
		}
	}
	old, _ := b.pods.get(name)
	count(old, -1)
	valid := distinct(slices.DeleteFunc(slices.Clone(addrs), func(a netip.Addr) bool { return !a.IsValid() }))
	count(valid, 1)
	if len(valid) == 0 {
		b.pods.remove(name)
		return
	}
	b.pods.set(name, valid)
}
