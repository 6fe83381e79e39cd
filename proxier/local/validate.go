package local

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidatePod checks a pod that has its defaults, as the API server does, and says what is wrong by field. It knows
// nothing of other objects: whether a ConfigMap exists is found out when the pod starts. Fields that are not
// honoured are Load's to refuse.
func ValidatePod(pod *corev1.Pod) error {
	c := &checks{pod: pod, volumes: map[string]bool{}, ports: map[string]bool{}}
	c.add(checkMeta(&pod.ObjectMeta, subdomain)...)
	if _, err := WantedPodIPs(pod); err != nil {
		c.add(field.Invalid(field.NewPath("metadata", "annotations").Key(AnnotationPodIPs), pod.Annotations[AnnotationPodIPs], "want IP addresses, one of a family, separated by commas"))
	}
	c.podSpec(field.NewPath("spec"))
	return listError(c.wrong)
}

// checks collects what is wrong with a pod.
type checks struct {
	pod     *corev1.Pod
	wrong   field.ErrorList
	volumes map[string]bool
	ports   map[string]bool
}

func (c *checks) add(wrong ...*field.Error) { c.wrong = append(c.wrong, wrong...) }

func (c *checks) required(path *field.Path, value string) {
	if value == "" {
		c.add(field.Required(path, ""))
	}
}

// valid checks a value that is set.
func (c *checks) valid(path *field.Path, value string, check func(string) []string) {
	if value == "" {
		return
	}
	for _, wrong := range check(value) {
		c.add(field.Invalid(path, value, wrong))
	}
}

// oneOf checks an enumerated value.
func oneOf[T ~string](c *checks, path *field.Path, value T, known ...T) {
	if !slices.Contains(known, value) {
		c.add(field.NotSupported(path, value, known))
	}
}

func (c *checks) atLeast(path *field.Path, value, least int64) {
	if value < least {
		c.add(field.Invalid(path, value, "must be at least "+itoa(least)))
	}
}

// id checks a user's or a group's number.
func (c *checks) id(path *field.Path, id *int64) {
	if id != nil && (*id < 0 || *id > maxID) {
		c.add(field.Invalid(path, *id, "must be between 0 and "+itoa(maxID)))
	}
}

// maxID is the highest user or group that a pod's user namespace maps.
const maxID = 65535

func checkLabels(labels map[string]string, path *field.Path) field.ErrorList {
	return metavalidation.ValidateLabels(labels, path)
}

func (c *checks) podSpec(path *field.Path) {
	spec := &c.pod.Spec
	for i := range spec.Volumes {
		c.volume(&spec.Volumes[i], path.Child("volumes").Index(i))
	}
	if len(spec.Containers) == 0 {
		c.add(field.Required(path.Child("containers"), ""))
	}
	seen := map[string]bool{}
	eachContainer(spec, func(one *corev1.Container, path *field.Path, initial bool) {
		if seen[one.Name] {
			c.add(field.Duplicate(path.Child("name"), one.Name))
		}
		seen[one.Name] = true
		c.container(one, path, initial)
	})
	oneOf(c, path.Child("restartPolicy"), spec.RestartPolicy, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	if g := spec.TerminationGracePeriodSeconds; g != nil {
		c.atLeast(path.Child("terminationGracePeriodSeconds"), *g, 0)
	}
	c.valid(path.Child("nodeName"), spec.NodeName, subdomain)
	c.valid(path.Child("serviceAccountName"), spec.ServiceAccountName, subdomain)
	c.valid(path.Child("hostname"), spec.Hostname, label)
	c.valid(path.Child("subdomain"), spec.Subdomain, label)
	for i, alias := range spec.HostAliases {
		c.hostAlias(&alias, path.Child("hostAliases").Index(i))
	}
	c.dns(spec, path)
	if spec.SecurityContext != nil {
		c.podSecurity(spec.SecurityContext, path.Child("securityContext"))
	}
}

func (c *checks) hostAlias(alias *corev1.HostAlias, path *field.Path) {
	c.ip(path.Child("ip"), alias.IP)
	for i, name := range alias.Hostnames {
		at := path.Child("hostnames").Index(i)
		c.required(at, name)
		c.valid(at, name, subdomain)
	}
}

func (c *checks) ip(path *field.Path, text string) {
	if a, err := netip.ParseAddr(text); err != nil || a.Is4In6() || a.Zone() != "" {
		c.add(field.Invalid(path, text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"))
	}
}

// The limits of resolv.conf: the C library's number of servers, and the API's of search domains.
const (
	maxNameservers  = 3
	maxSearches     = 32
	maxSearchLength = 2048
)

func (c *checks) dns(spec *corev1.PodSpec, path *field.Path) {
	oneOf(c, path.Child("dnsPolicy"), spec.DNSPolicy, corev1.DNSClusterFirst, corev1.DNSClusterFirstWithHostNet, corev1.DNSDefault, corev1.DNSNone)
	path = path.Child("dnsConfig")
	config := spec.DNSConfig
	if config == nil {
		config = &corev1.PodDNSConfig{}
	}
	servers := path.Child("nameservers")
	if spec.DNSPolicy == corev1.DNSNone && len(config.Nameservers) == 0 {
		c.add(field.Required(servers, "must provide at least one DNS nameserver when `dnsPolicy` is None"))
	}
	if len(config.Nameservers) > maxNameservers {
		c.add(field.TooMany(servers, len(config.Nameservers), maxNameservers))
	}
	for i, ip := range config.Nameservers {
		c.ip(servers.Index(i), ip)
	}
	searches := path.Child("searches")
	if len(config.Searches) > maxSearches {
		c.add(field.TooMany(searches, len(config.Searches), maxSearches))
	}
	if len(strings.Join(config.Searches, " ")) > maxSearchLength {
		c.add(field.TooLong(searches, "", maxSearchLength))
	}
	for i, s := range config.Searches {
		if s != "." {
			c.required(searches.Index(i), strings.TrimSuffix(s, "."))
			c.valid(searches.Index(i), strings.TrimSuffix(s, "."), searchDomain)
		}
	}
	for i, o := range config.Options {
		at := path.Child("options").Index(i)
		c.required(at.Child("name"), o.Name)
		// Another line in resolv.conf would be another setting.
		if strings.ContainsFunc(o.Name, blank) {
			c.add(field.Invalid(at.Child("name"), o.Name, "must not contain blanks"))
		}
		if o.Value != nil && strings.ContainsFunc(*o.Value, blank) {
			c.add(field.Invalid(at.Child("value"), *o.Value, "must not contain blanks"))
		}
	}
}

// searchDomain checks a search domain, whose labels may have underscores.
func searchDomain(name string) []string {
	if searchLabels.MatchString(name) && len(name) <= 253 {
		return nil
	}
	return []string{"must be a DNS name: lower case letters, digits, '-' and '_', separated by '.'"}
}

var searchLabels = regexp.MustCompile(`^[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$`)

func blank(r rune) bool { return r <= ' ' || r == 0x7f }

func (c *checks) podSecurity(s *corev1.PodSecurityContext, path *field.Path) {
	c.id(path.Child("runAsUser"), s.RunAsUser)
	c.id(path.Child("runAsGroup"), s.RunAsGroup)
	c.id(path.Child("fsGroup"), s.FSGroup)
	for i := range s.SupplementalGroups {
		c.id(path.Child("supplementalGroups").Index(i), &s.SupplementalGroups[i])
	}
	seen := map[string]bool{}
	for i, ctl := range s.Sysctls {
		c.sysctl(&ctl, seen, path.Child("sysctls").Index(i))
	}
	c.seccomp(s.SeccompProfile, path.Child("seccompProfile"))
}

var sysctlName = regexp.MustCompile(`^[a-z0-9]([-_a-z0-9]*[a-z0-9])?([./][a-z0-9]([-_a-z0-9]*[a-z0-9])?)*$`)

// sysctl takes the settings that every pod has for itself, as the kubelet knows them (k8s.io/kubernetes
// pkg/kubelet/sysctl): those of the IPC and of the network namespace.
func (c *checks) sysctl(s *corev1.Sysctl, seen map[string]bool, path *field.Path) {
	path = path.Child("name")
	name := strings.ReplaceAll(s.Name, "/", ".")
	switch {
	case s.Name == "":
		c.add(field.Required(path, ""))
	case len(s.Name) > 253 || !sysctlName.MatchString(s.Name):
		c.add(field.Invalid(path, s.Name, "must be the name of a sysctl, such as net.ipv4.ip_forward"))
	case seen[name]:
		c.add(field.Duplicate(path, s.Name))
	case !namespaced(name):
		c.add(field.Forbidden(path, s.Name+" is not namespaced: it would be set for the whole machine"))
	}
	seen[name] = true
}

func namespaced(name string) bool {
	if name == "kernel.sem" {
		return true
	}
	return slices.ContainsFunc([]string{"kernel.shm", "kernel.msg", "fs.mqueue.", "net."}, func(p string) bool { return strings.HasPrefix(name, p) })
}

func (c *checks) seccomp(p *corev1.SeccompProfile, path *field.Path) {
	if p != nil {
		oneOf(c, path.Child("type"), p.Type, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	}
}
