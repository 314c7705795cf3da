// Renders a chart as `helm template` does, with Debian's packages alone: text/template and sprig, and the functions that
// helm adds and our chart uses. What it does not know is an error.
//
//	render CHART RELEASE NAMESPACE < values.yaml
//
// Prints the documents, each after a line "---" and one that names its template.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"sigs.k8s.io/yaml"
)

type object = map[string]interface{}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

func read(path string) object {
	var result object
	text, err := os.ReadFile(path)
	check(err)
	check(yaml.UnmarshalStrict(text, &result))
	return result
}

// merge puts what is in over into base, maps into maps, as helm does with values.
func merge(base, over object) object {
	for key, value := range over {
		inner, isMap := value.(object)
		old, wasMap := base[key].(object)
		if isMap && wasMap {
			base[key] = merge(old, inner)
		} else {
			base[key] = value
		}
	}
	return base
}

func functions(all *template.Template) template.FuncMap {
	f := sprig.TxtFuncMap()
	delete(f, "env")
	delete(f, "expandenv")
	f["include"] = func(name string, data interface{}) (string, error) {
		var out strings.Builder
		err := all.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	f["toYaml"] = func(value interface{}) (string, error) {
		text, err := yaml.Marshal(value)
		return strings.TrimSuffix(string(text), "\n"), err
	}
	f["required"] = func(message string, value interface{}) (interface{}, error) {
		if value == nil || value == "" {
			return nil, errors.New(message)
		}
		return value, nil
	}
	f["fail"] = func(message string) (string, error) { return "", errors.New(message) }
	return f
}

func main() {
	chart := os.Args[1]
	given, err := io.ReadAll(os.Stdin)
	check(err)
	var over object
	check(yaml.UnmarshalStrict(given, &over))
	about := read(filepath.Join(chart, "Chart.yaml"))
	data := object{
		"Values":  merge(read(filepath.Join(chart, "values.yaml")), over),
		"Release": object{"Name": os.Args[2], "Namespace": os.Args[3], "Service": "Helm"},
		"Chart": object{"Name": about["name"], "Version": about["version"],
			"AppVersion": about["appVersion"]},
	}
	all := template.New("chart").Option("missingkey=error")
	all.Funcs(functions(all))
	files, err := filepath.Glob(filepath.Join(chart, "templates", "*"))
	check(err)
	sort.Strings(files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		check(err)
		_, err = all.New(filepath.Base(file)).Parse(string(text))
		check(err)
	}
	for _, file := range files {
		var out bytes.Buffer
		name := filepath.Base(file)
		check(all.ExecuteTemplate(&out, name, data))
		if strings.HasSuffix(name, ".yaml") && len(bytes.TrimSpace(out.Bytes())) > 0 {
			fmt.Printf("---\n# %s\n%s\n", name, out.String())
		}
	}
}
