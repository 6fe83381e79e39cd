package clusterdns

import (
	"maps"
	"net/netip"
	"slices"
	"strings"

	"go.uber.org/zap"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"svcproxy/dns"
	"svcproxy/model"
)

// Changes are new states of objects; nil is one that is gone.
type Changes struct {
	Services map[model.ServiceName]*corev1.Service
	Slices   map[model.SliceName]*discoveryv1.EndpointSlice
	// Namespaces that exist, with Services or without.
	Namespaces map[string]bool
	// Pods are addresses of pods, for dns.PodsVerified.
	Pods map[model.ServiceName][]netip.Addr
}

// NewChanges returns Changes without any.
func NewChanges() Changes {
	return Changes{
		Services:   map[model.ServiceName]*corev1.Service{},
		Slices:     map[model.SliceName]*discoveryv1.EndpointSlice{},
		Namespaces: map[string]bool{},
		Pods:       map[model.ServiceName][]netip.Addr{},
	}
}

// Follower leads from objects to zones, one change at a time: what one costs does not grow with the cluster. It is for one
// goroutine.
type Follower struct {
	log  *zap.Logger
	zone *dns.Zone

	services map[model.ServiceName]*corev1.Service
	slices   map[model.SliceName]*discoveryv1.EndpointSlice
	// of are the slices of each Service.
	of map[model.ServiceName]map[model.SliceName]*discoveryv1.EndpointSlice
	// problems are those that were logged, by Service.
	problems map[model.ServiceName]string
}

// NewFollower returns a Follower of no objects. The error is of the configuration.
func NewFollower(config dns.Config, log *zap.Logger) (*Follower, error) {
	zone, _, err := dns.NewZone(config, nil)
	if err != nil {
		return nil, err
	}
	return &Follower{
		log: log, zone: zone,
		services: map[model.ServiceName]*corev1.Service{},
		slices:   map[model.SliceName]*discoveryv1.EndpointSlice{},
		of:       map[model.ServiceName]map[model.SliceName]*discoveryv1.EndpointSlice{},
		problems: map[model.ServiceName]string{},
	}, nil
}

// Zone is the present one.
func (f *Follower) Zone() *dns.Zone { return f.zone }

// Services are those that the zone answers for, by name.
func (f *Follower) Services() []dns.Service {
	var all []dns.Service
	for name := range f.services {
		if s := f.convert(name); s != nil {
			all = append(all, *s)
		}
	}
	slices.SortFunc(all, func(a, b dns.Service) int { return strings.Compare(a.Name.String(), b.Name.String()) })
	return all
}

// Apply takes changes and returns the zone with them. What can't be put into DNS is logged, once, and left out.
func (f *Follower) Apply(c Changes) *dns.Zone {
	touched := map[model.ServiceName]bool{}
	for name, s := range c.Services {
		touched[name] = true
		if s == nil {
			delete(f.services, name)
		} else {
			f.services[name] = s
		}
	}
	for name, s := range c.Slices {
		f.setSlice(name, s, touched)
	}
	next := dns.Changes{Services: map[model.ServiceName]*dns.Service{}, Namespaces: c.Namespaces, Pods: c.Pods}
	for name := range touched {
		next.Services[name] = f.convert(name)
	}
	zone, problems := f.zone.With(next)
	for _, err := range problems {
		f.log.Warn("not in DNS", zap.Error(err))
	}
	f.zone = zone
	return zone
}

func (f *Follower) setSlice(name model.SliceName, s *discoveryv1.EndpointSlice, touched map[model.ServiceName]bool) {
	if old := f.slices[name]; old != nil {
		service := serviceOf(old)
		touched[service] = true
		delete(f.of[service], name)
		if len(f.of[service]) == 0 {
			delete(f.of, service)
		}
	}
	delete(f.slices, name)
	if s == nil || s.Labels[discoveryv1.LabelServiceName] == "" {
		return
	}
	service := serviceOf(s)
	touched[service] = true
	f.slices[name] = s
	if f.of[service] == nil {
		f.of[service] = map[model.SliceName]*discoveryv1.EndpointSlice{}
	}
	f.of[service][name] = s
}

func serviceOf(s *discoveryv1.EndpointSlice) model.ServiceName {
	return model.ServiceName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
}

// convert returns nil for a Service that is gone or can't be used.
func (f *Follower) convert(name model.ServiceName) *dns.Service {
	service := f.services[name]
	if service == nil {
		delete(f.problems, name)
		return nil
	}
	of := slices.SortedFunc(maps.Values(f.of[name]), func(a, b *discoveryv1.EndpointSlice) int { return strings.Compare(a.Name, b.Name) })
	s, err := Convert(service, of)
	if err == nil {
		delete(f.problems, name)
		return s
	}
	if f.problems[name] != err.Error() {
		f.problems[name] = err.Error()
		f.log.Warn("not in DNS", zap.Error(err))
	}
	return nil
}
