package kubelet

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// volumes are a pod's folders on the machine, by volume name. They live as long as the pod.
type volumes struct {
	dir     string
	machine machine
	allowed []string // folders below which hostPath may be
	sources map[string]string
	files   map[string]bool // volumes of files, which are always mounted read-only
	mounted []string        // file systems in memory
}

func newVolumes(dir string, m machine, allowed []string) *volumes {
	return &volumes{dir: dir, machine: m, allowed: allowed, sources: map[string]string{}, files: map[string]bool{}}
}

// accountVolume is where the service account's files are among the volumes: no volume can be called so.
const accountVolume = ".serviceaccount"

// prepare makes all volumes, or brings them up to date.
func (v *volumes) prepare(s *source) error {
	if err := os.MkdirAll(v.dir, 0o711); err != nil {
		return err
	}
	for i := range s.pod.Spec.Volumes {
		if err := v.prepareOne(s, i); err != nil {
			return err
		}
	}
	if !automounts(s.pod) {
		return nil
	}
	files, err := s.account()
	if err != nil {
		return err
	}
	return v.writeFiles(s, accountVolume, files)
}

func (v *volumes) prepareOne(s *source, i int) error {
	volume := &s.pod.Spec.Volumes[i]
	switch {
	case volume.EmptyDir != nil:
		if err := v.emptyDir(s.pod, volume); err != nil {
			return fmt.Errorf("volume %s: %w", volume.Name, err)
		}
	case volume.HostPath != nil:
		path, err := checkHostPath(volume.HostPath, v.allowed)
		if err != nil {
			return fmt.Errorf("spec.volumes[%d].hostPath: %w", i, err)
		}
		v.sources[volume.Name] = path
	default:
		files, ok, err := s.payloadOf(volume)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("spec.volumes[%d] (%s) is of no kind that is supported", i, volume.Name)
		}
		return v.writeFiles(s, volume.Name, files)
	}
	return nil
}

// update rewrites the volumes of files, after config maps, secrets or the pod's labels changed. The token stays.
func (v *volumes) update(s *source) error {
	var errs []error
	for i := range s.pod.Spec.Volumes {
		files, ok, err := s.payloadOf(&s.pod.Spec.Volumes[i])
		if ok && err == nil {
			err = v.writeFiles(s, s.pod.Spec.Volumes[i].Name, files)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (v *volumes) writeFiles(s *source, name string, files payload) error {
	dir := filepath.Join(v.dir, name)
	o := v.ownership(s.pod)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := o.folder(dir); err != nil {
		return err
	}
	if err := files.write(dir, o); err != nil {
		return fmt.Errorf("volume %s: %w", name, err)
	}
	v.sources[name] = dir
	v.files[name] = true
	return nil
}

func (v *volumes) ownership(pod *v1.Pod) ownership {
	o := ownership{own: v.machine.Own}
	if pod.Spec.SecurityContext != nil {
		o.group = pod.Spec.SecurityContext.FSGroup
	}
	return o
}

func (v *volumes) emptyDir(pod *v1.Pod, volume *v1.Volume) error {
	if v.sources[volume.Name] != "" {
		return nil
	}
	dir := filepath.Join(v.dir, volume.Name)
	if err := os.Mkdir(dir, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if volume.EmptyDir.Medium == v1.StorageMediumMemory {
		size := int64(0)
		if volume.EmptyDir.SizeLimit != nil {
			size = volume.EmptyDir.SizeLimit.Value()
		}
		if err := v.machine.MountMemory(dir, size); err != nil {
			return err
		}
		v.mounted = append(v.mounted, dir)
	}
	o := v.ownership(pod)
	if err := v.machine.Own(dir, 0, o.gid()); err != nil {
		return err
	}
	m := fs.FileMode(0o777)
	if o.group != nil {
		m |= fs.ModeSetgid
	}
	if err := os.Chmod(dir, m); err != nil {
		return err
	}
	v.sources[volume.Name] = dir
	return nil
}

// close removes the volumes and what is in them.
func (v *volumes) close() error {
	var errs []error
	for _, dir := range v.mounted {
		errs = append(errs, v.machine.Unmount(dir))
	}
	v.mounted = nil
	clear(v.sources)
	if err := errors.Join(errs...); err != nil {
		return err // rather than to remove what may still be mounted elsewhere
	}
	return os.RemoveAll(v.dir)
}

// allowedHostPath resolves a path and refuses it unless it is below an allowed folder after all links have been followed.
func allowedHostPath(name string, allowed []string) (string, error) {
	path, _, err := resolve(name)
	if err != nil {
		return "", err
	}
	if !belowAny(path, allowed) {
		return "", fmt.Errorf("path %q opens the machine to the pod: it is not below a folder given with --%s", name, HostPathFlag)
	}
	return path, nil
}

// checkHostPath resolves a hostPath and makes it where its type asks for that.
func checkHostPath(h *v1.HostPathVolumeSource, allowed []string) (string, error) {
	path, err := allowedHostPath(h.Path, allowed)
	if err != nil {
		return "", err
	}
	_, err = os.Stat(path)
	missing := errors.Is(err, fs.ErrNotExist)
	kind := v1.HostPathUnset
	if h.Type != nil {
		kind = *h.Type
	}
	if missing {
		switch kind {
		case v1.HostPathDirectoryOrCreate:
			return path, os.MkdirAll(path, 0o755)
		case v1.HostPathFileOrCreate:
			f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
			if err != nil {
				return "", err
			}
			return path, f.Close()
		}
		return "", fmt.Errorf("path %q does not exist", h.Path)
	}
	return path, checkHostPathType(path, kind)
}

func checkHostPathType(path string, kind v1.HostPathType) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	ok := true
	switch kind {
	case v1.HostPathDirectory, v1.HostPathDirectoryOrCreate:
		ok = info.IsDir()
	case v1.HostPathFile, v1.HostPathFileOrCreate:
		ok = info.Mode().IsRegular()
	case v1.HostPathSocket:
		ok = info.Mode()&fs.ModeSocket != 0
	case v1.HostPathCharDev:
		ok = info.Mode()&fs.ModeCharDevice != 0
	case v1.HostPathBlockDev:
		ok = info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
	}
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not a %s", path, kind)
	}
	return nil
}

// resolve follows all links, also of a path whose end does not exist yet.
func resolve(path string) (resolved string, missing bool, err error) {
	if !filepath.IsAbs(path) {
		return "", false, fmt.Errorf("path %q is not absolute", path)
	}
	path = filepath.Clean(path)
	rest := ""
	for {
		resolved, err := filepath.EvalSymlinks(path)
		if err == nil {
			return filepath.Join(resolved, rest), rest != "", nil
		}
		if _, lerr := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) || lerr == nil {
			return "", false, err // a link to nowhere is no missing folder
		}
		rest = filepath.Join(filepath.Base(path), rest)
		path = filepath.Dir(path)
	}
}

func belowAny(path string, folders []string) bool {
	for _, f := range folders {
		resolved, err := filepath.EvalSymlinks(f)
		if err != nil {
			continue
		}
		if path == resolved || resolved == "/" || strings.HasPrefix(path, resolved+"/") {
			return true
		}
	}
	return false
}

// automounts tells whether the pod gets its service account's files.
func automounts(pod *v1.Pod) bool {
	return pod.Spec.AutomountServiceAccountToken == nil || *pod.Spec.AutomountServiceAccountToken
}
