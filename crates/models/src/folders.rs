//! Reading and writing folders, the same for each head of a family.

/// Folders in and out, for models that are made from a configuration alone: `folders!(Config, weights; Model, ..)`, where `weights` reads
/// a folder's tensors under the names of parameters.
macro_rules! folders {
    ($config:ty, $weights:path; $($model:ident),* $(,)?) => {$(
        impl $model {
            /// The configuration.
            pub fn config(&self) -> &$config {
                &self.config
            }

            /// Reads a folder of `config.json` and `model.safetensors` as Hugging Face writes them for this model.
            ///
            /// # Errors
            /// A file is missing or damaged, or the two do not fit together.
            pub fn from_pretrained(
                dir: &std::path::Path,
                device: &wgrad_runtime::DeviceHandle,
            ) -> Result<Self, $crate::ModelError> {
                let config = $crate::pretrained::read_config(dir)?;
                let model = Self::new(&config, &wgrad_nn::Init::new(device, 0))?;
                $weights(dir, device)?.load_into(&model)?;
                Ok(model)
            }

            /// Writes `config.json` and `model.safetensors` into a folder, as Hugging Face's `from_pretrained` reads them.
            ///
            /// # Errors
            /// The parameters cannot be read back, or the files cannot be written.
            pub fn save_pretrained(&self, dir: &std::path::Path) -> Result<(), $crate::ModelError> {
                $crate::pretrained::save(dir, &self.config, self)
            }
        }
    )*};
}

pub(crate) use folders;
