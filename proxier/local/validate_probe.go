package local

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func (c *checks) probes(one *corev1.Container, at *field.Path, initial bool) {
	for _, p := range []struct {
		name  string
		probe *corev1.Probe
		ready bool
	}{{"livenessProbe", one.LivenessProbe, false}, {"readinessProbe", one.ReadinessProbe, true}, {"startupProbe", one.StartupProbe, false}} {
		switch {
		case p.probe == nil:
		case initial:
			c.add(field.Forbidden(at.Child(p.name), "must not be set for init containers"))
		default:
			c.probe(p.probe, p.ready, at.Child(p.name))
		}
	}
	switch {
	case one.Lifecycle == nil:
	case initial:
		c.add(field.Forbidden(at.Child("lifecycle"), "must not be set for init containers"))
	default:
		c.handler(one.Lifecycle.PostStart, at.Child("lifecycle", "postStart"))
		c.handler(one.Lifecycle.PreStop, at.Child("lifecycle", "preStop"))
	}
}

func (c *checks) probe(p *corev1.Probe, ready bool, at *field.Path) {
	c.exactlyOne(at, p.Exec != nil, p.TCPSocket != nil, p.HTTPGet != nil)
	c.exec(p.Exec, at.Child("exec"))
	c.http(p.HTTPGet, at.Child("httpGet"))
	if p.TCPSocket != nil {
		c.portOrName(&p.TCPSocket.Port, at.Child("tcpSocket", "port"))
		c.host(p.TCPSocket.Host, at.Child("tcpSocket", "host"))
	}
	c.atLeast(at.Child("initialDelaySeconds"), int64(p.InitialDelaySeconds), 0)
	c.atLeast(at.Child("timeoutSeconds"), int64(p.TimeoutSeconds), 1)
	c.atLeast(at.Child("periodSeconds"), int64(p.PeriodSeconds), 1)
	c.atLeast(at.Child("successThreshold"), int64(p.SuccessThreshold), 1)
	c.atLeast(at.Child("failureThreshold"), int64(p.FailureThreshold), 1)
	if !ready && p.SuccessThreshold != 1 {
		c.add(field.Invalid(at.Child("successThreshold"), p.SuccessThreshold, "must be 1"))
	}
	if g := p.TerminationGracePeriodSeconds; g != nil {
		if ready {
			c.add(field.Invalid(at.Child("terminationGracePeriodSeconds"), *g, "must not be set for readinessProbes"))
		} else {
			c.atLeast(at.Child("terminationGracePeriodSeconds"), *g, 1)
		}
	}
}

func (c *checks) handler(h *corev1.LifecycleHandler, at *field.Path) {
	if h == nil {
		return
	}
	c.exactlyOne(at, h.Exec != nil, h.HTTPGet != nil, h.Sleep != nil)
	c.exec(h.Exec, at.Child("exec"))
	c.http(h.HTTPGet, at.Child("httpGet"))
	if h.Sleep != nil {
		grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
		if g := c.pod.Spec.TerminationGracePeriodSeconds; g != nil {
			grace = *g
		}
		if h.Sleep.Seconds < 0 || h.Sleep.Seconds > grace {
			c.add(field.Invalid(at.Child("sleep", "seconds"), h.Sleep.Seconds,
				"must be non-negative and no more than terminationGracePeriodSeconds, which is "+itoa(grace)))
		}
	}
}

func (c *checks) exec(e *corev1.ExecAction, at *field.Path) {
	if e != nil && len(e.Command) == 0 {
		c.add(field.Required(at.Child("command"), ""))
	}
}

func (c *checks) http(h *corev1.HTTPGetAction, at *field.Path) {
	if h == nil {
		return
	}
	c.required(at.Child("path"), h.Path)
	c.portOrName(&h.Port, at.Child("port"))
	c.host(h.Host, at.Child("host"))
	oneOf(c, at.Child("scheme"), h.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)
	for i, header := range h.HTTPHeaders {
		at := at.Child("httpHeaders").Index(i).Child("name")
		c.required(at, header.Name)
		c.valid(at, header.Name, validation.IsHTTPHeaderName)
	}
}

// host is the pod's own address where it is empty.
func (c *checks) host(host string, at *field.Path) {
	for _, r := range host {
		if blank(r) {
			c.add(field.Invalid(at, host, "must not contain blanks"))
			return
		}
	}
}

func (c *checks) portOrName(p *intstr.IntOrString, at *field.Path) {
	if p.Type == intstr.Int {
		c.portNumber(at, p.IntVal)
		return
	}
	c.required(at, p.StrVal)
	c.valid(at, p.StrVal, validation.IsValidPortName)
}
