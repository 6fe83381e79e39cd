package kubelet

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"

	"svcproxy/sandbox/confine"
)

// profile is what a container's program may do, from the security contexts of pod and container and the user that its
// image names. home is the user's folder.
func profile(pod *v1.Pod, c *v1.Container, img *imageInfo) (_ confine.Profile, home string, err error) {
	p, own := pod.Spec.SecurityContext, c.SecurityContext
	if p == nil {
		p = &v1.PodSecurityContext{}
	}
	if own == nil {
		own = &v1.SecurityContext{}
	}
	user := img.User
	if asked := pick(own.RunAsUser, p.RunAsUser); asked != nil {
		user = fmt.Sprint(*asked)
	}
	id, err := img.Lookup(user)
	if err != nil {
		return confine.Profile{}, "", fmt.Errorf("user %q of image %s: %w", user, c.Image, err)
	}
	if isTrue(pick(own.RunAsNonRoot, p.RunAsNonRoot)) && id.UID == 0 {
		return confine.Profile{}, "", fmt.Errorf("container has runAsNonRoot and image will run as root (pod: %q, container: %s)",
			pod.Namespace+"/"+pod.Name, c.Name)
	}
	out := confine.Profile{UID: id.UID, GID: id.GID, AllowPrivilegeEscalation: own.AllowPrivilegeEscalation == nil || *own.AllowPrivilegeEscalation}
	if group := pick(own.RunAsGroup, p.RunAsGroup); group != nil {
		out.GID = int(*group)
	}
	out.Groups = groups(id.Groups, p)
	if out.Capabilities, err = capabilities(own.Capabilities); err != nil {
		return confine.Profile{}, "", err
	}
	if s := pick(own.SeccompProfile, p.SeccompProfile); s != nil && s.Type == v1.SeccompProfileTypeUnconfined {
		out.Seccomp = confine.Unconfined
	}
	if err := out.Check(); err != nil {
		return confine.Profile{}, "", err
	}
	return out, id.Home, nil
}

func pick[T any](own, pods *T) *T {
	if own != nil {
		return own
	}
	return pods
}

// groups are the image's groups of the user, unless the policy is Strict, and the pod's.
func groups(image []int, p *v1.PodSecurityContext) []int {
	var out []int
	if p.SupplementalGroupsPolicy == nil || *p.SupplementalGroupsPolicy != v1.SupplementalGroupsPolicyStrict {
		out = slices.Clone(image)
	}
	for _, g := range p.SupplementalGroups {
		out = append(out, int(g))
	}
	if p.FSGroup != nil {
		out = append(out, int(*p.FSGroup))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// capabilities are the defaults, without those dropped, with those added; ALL stands for every one.
func capabilities(c *v1.Capabilities) ([]string, error) {
	set := map[string]bool{}
	for _, name := range confine.DefaultCapabilities() {
		set[name] = true
	}
	if c == nil {
		return sortedKeys(set), nil
	}
	full := func(name v1.Capability) string {
		upper := strings.ToUpper(string(name))
		if strings.HasPrefix(upper, "CAP_") {
			return upper
		}
		return "CAP_" + upper
	}
	for _, name := range c.Add {
		if full(name) == "CAP_ALL" {
			return nil, fmt.Errorf("securityContext.capabilities.add: ALL is not supported, name the capabilities")
		}
	}
	for _, name := range c.Drop {
		if full(name) == "CAP_ALL" {
			clear(set)
		}
		delete(set, full(name))
	}
	for _, name := range c.Add {
		set[full(name)] = true
	}
	return sortedKeys(set), nil
}

// checkUsers refuses users and groups that don't exist in a pod, by the field's name.
func (k *Kubelet) checkUsers(pod *v1.Pod) error {
	var errs []error
	check := func(field string, ids ...*int64) {
		for _, id := range ids {
			if id == nil {
				continue
			}
			if err := k.machine.CheckUser(*id); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", field, err))
			}
		}
	}
	if p := pod.Spec.SecurityContext; p != nil {
		check("spec.securityContext.runAsUser", p.RunAsUser)
		check("spec.securityContext.runAsGroup", p.RunAsGroup)
		check("spec.securityContext.fsGroup", p.FSGroup)
		for i := range p.SupplementalGroups {
			check(fmt.Sprintf("spec.securityContext.supplementalGroups[%d]", i), &p.SupplementalGroups[i])
		}
	}
	for _, list := range []struct {
		field      string
		containers []v1.Container
	}{{"initContainers", pod.Spec.InitContainers}, {"containers", pod.Spec.Containers}} {
		for i, c := range list.containers {
			if own := c.SecurityContext; own != nil {
				field := fmt.Sprintf("spec.%s[%d].securityContext.", list.field, i)
				check(field+"runAsUser", own.RunAsUser)
				check(field+"runAsGroup", own.RunAsGroup)
			}
		}
	}
	return errors.Join(errs...)
}
