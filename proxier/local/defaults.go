package local

import (
	"path"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// orDefault sets what is not set.
func orDefault[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// orPointer sets what does not point anywhere.
func orPointer[T any](v **T, value T) {
	if *v == nil {
		*v = &value
	}
}

func defaultPodSpec(spec *corev1.PodSpec) {
	orDefault(&spec.RestartPolicy, corev1.RestartPolicyAlways)
	orDefault(&spec.DNSPolicy, corev1.DNSClusterFirst)
	orDefault(&spec.SchedulerName, corev1.DefaultSchedulerName)
	orDefault(&spec.ServiceAccountName, spec.DeprecatedServiceAccount)
	orDefault(&spec.ServiceAccountName, "default")
	spec.DeprecatedServiceAccount = spec.ServiceAccountName
	orPointer(&spec.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
	if *spec.TerminationGracePeriodSeconds < 0 {
		*spec.TerminationGracePeriodSeconds = 1
	}
	orPointer(&spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	orPointer(&spec.SecurityContext, corev1.PodSecurityContext{})
	for i := range spec.Volumes {
		defaultVolume(&spec.Volumes[i].VolumeSource)
	}
	for i := range spec.InitContainers {
		defaultContainer(&spec.InitContainers[i])
	}
	for i := range spec.Containers {
		defaultContainer(&spec.Containers[i])
	}
}

func defaultVolume(v *corev1.VolumeSource) {
	if *v == (corev1.VolumeSource{}) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	switch {
	case v.HostPath != nil:
		orPointer(&v.HostPath.Type, corev1.HostPathUnset)
	case v.ConfigMap != nil:
		orPointer(&v.ConfigMap.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
	case v.Secret != nil:
		orPointer(&v.Secret.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
	case v.DownwardAPI != nil:
		orPointer(&v.DownwardAPI.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
		defaultDownward(v.DownwardAPI.Items)
	case v.Projected != nil:
		orPointer(&v.Projected.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
		for _, s := range v.Projected.Sources {
			if s.DownwardAPI != nil {
				defaultDownward(s.DownwardAPI.Items)
			}
			if s.ServiceAccountToken != nil {
				orPointer(&s.ServiceAccountToken.ExpirationSeconds, 3600)
			}
		}
	}
}

func defaultDownward(files []corev1.DownwardAPIVolumeFile) {
	for i := range files {
		defaultFieldRef(files[i].FieldRef)
	}
}

func defaultFieldRef(r *corev1.ObjectFieldSelector) {
	if r != nil {
		orDefault(&r.APIVersion, "v1")
	}
}

func defaultContainer(c *corev1.Container) {
	policy := corev1.PullIfNotPresent
	if latest(c.Image) {
		policy = corev1.PullAlways
	}
	orDefault(&c.ImagePullPolicy, policy)
	orDefault(&c.TerminationMessagePath, corev1.TerminationMessagePathDefault)
	orDefault(&c.TerminationMessagePolicy, corev1.TerminationMessageReadFile)
	for i := range c.Ports {
		orDefault(&c.Ports[i].Protocol, corev1.ProtocolTCP)
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil {
			defaultFieldRef(from.FieldRef)
		}
	}
	for _, p := range []*corev1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if p != nil {
			defaultProbe(p)
		}
	}
	if c.Lifecycle != nil {
		for _, h := range []*corev1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if h != nil {
				defaultHTTP(h.HTTPGet)
			}
		}
	}
	defaultResources(&c.Resources)
}

// transports begin the names of images that are no registry's.
var transports = []string{"host:", "rootfs:", "oci:", "oci-archive:", "docker-archive:"}

// latest tells whether an image is a registry's, with the tag latest or with none.
func latest(image string) bool {
	for _, t := range transports {
		if strings.HasPrefix(image, t) {
			return false
		}
	}
	if name, _, digest := strings.Cut(image, "@"); digest {
		image = name
		return strings.HasSuffix(path.Base(image), ":latest")
	}
	_, tag, tagged := strings.Cut(path.Base(image), ":")
	return !tagged || tag == "latest"
}

func defaultProbe(p *corev1.Probe) {
	orDefault(&p.TimeoutSeconds, 1)
	orDefault(&p.PeriodSeconds, 10)
	orDefault(&p.SuccessThreshold, 1)
	orDefault(&p.FailureThreshold, 3)
	defaultHTTP(p.HTTPGet)
}

func defaultHTTP(h *corev1.HTTPGetAction) {
	if h != nil {
		orDefault(&h.Path, "/")
		orDefault(&h.Scheme, corev1.URISchemeHTTP)
	}
}

// defaultResources rounds quantities up to a thousandth, and makes requests of limits.
func defaultResources(r *corev1.ResourceRequirements) {
	for _, list := range []corev1.ResourceList{r.Limits, r.Requests} {
		for name, q := range list {
			q.RoundUp(resource.Milli)
			list[name] = q
		}
	}
	for name, q := range r.Limits {
		if name == ResourcePIDs {
			continue // nobody would count what is requested
		}
		if r.Requests == nil {
			r.Requests = corev1.ResourceList{}
		}
		if _, set := r.Requests[name]; !set {
			r.Requests[name] = q.DeepCopy()
		}
	}
}
